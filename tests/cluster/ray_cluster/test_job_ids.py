"""cluster.ray_cluster.job_client: the ids of a sweep's jobs are those of no other sweep."""

from mixsweep.cluster.ray_cluster.job_client import _is_job_of, _job_prefix


def test_names_that_an_address_cannot_hold_have_job_ids_of_their_own() -> None:
    names = ["a-b", "a b", "a_20_b", "a+20+b", "a", "a-1", "a%b", "é"]
    ids = {name: f"{_job_prefix(name)}1" for name in names}
    assert ids["a-b"] == "mixsweep-a-b-1"  # a plain name keeps the ids that it has always had
    for name in names:
        assert [other for other in names if _is_job_of(ids[other], name)] == [name]
