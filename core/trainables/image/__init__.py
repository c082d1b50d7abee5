"""The built-in kind of trial: an image classifier, its config, costs and pictures, and fields of registered parts."""
