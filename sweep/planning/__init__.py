"""From a sweep file to a plan: parse, expand, identify, forecast."""
