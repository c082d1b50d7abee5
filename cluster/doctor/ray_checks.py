"""Checks of a place that runs trials on Ray: the local installation, or a cluster."""

import warnings

from mixsweep.cluster.doctor.check_result import Check
from mixsweep.cluster.places import RayPlace
from mixsweep.core.extras import require


def check_ray() -> Check:
    """Check that Ray, which `local` starts, can be imported."""
    require("ray", what="place local")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
    return Check("ray", "ok", f"{ray.__version__}")


def check_cluster(place: RayPlace) -> list[Check]:
    """Check that a Ray cluster accepts this machine; report its nodes and devices."""
    from mixsweep.cluster.ray_cluster.connection import alive_nodes, connect_to_cluster
    from mixsweep.cluster.ray_cluster.job_client import JobServer

    if place.takes_jobs:
        return [Check("cluster", "ok", f"takes jobs; Ray {JobServer(place).ray_version}")]
    require("ray", what=f"address {place.address}")
    with connect_to_cluster(place, {}):
        nodes = alive_nodes()
    resources = ", ".join(
        f"{sum(n.resources.get(name, 0.0) for n in nodes):g} {name}s" for name in ("CPU", "GPU")
    )
    return [Check("cluster", "ok", f"{len(nodes)} nodes with {resources}")]
