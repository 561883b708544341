"""Which versions may serve, and whose word counts."""

import pytest

from broker.routing import Routing
from hotpool.errors import StaleEpoch, UnknownModel, UnknownVersion
from hotpool.messages import SetVersions


def routing_with_table() -> Routing:
    routing = Routing("shapes", {"shapes": "digest-2"})
    routing.set_versions(
        SetVersions(0, 1, "shapes", "digest-2", "digest-3", {"v1": "digest-1", "v2": "digest-2", "v3": "digest-3"})
    )
    return routing


def test_without_a_table_workers_are_taken_at_their_word():
    routing = Routing("shapes", {"shapes": "digest-2"})
    assert routing.admits("shapes", "anything")
    routing.check_version("shapes", "v9")


def test_only_stable_and_target_are_admitted():
    routing = routing_with_table()
    assert [routing.admits("shapes", f"digest-{n}") for n in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize("version", [None, "v2", "v3", "digest-3"])
def test_a_request_may_name_an_admitted_version(version):
    routing_with_table().check_version("shapes", version)


def test_a_version_that_is_not_served_is_refused_with_those_that_are():
    with pytest.raises(UnknownVersion, match="'v1' of 'shapes' is not served now; served: v2, v3"):
        routing_with_table().check_version("shapes", "v1")


def test_no_model_means_the_pools_own():
    assert Routing("shapes", {"shapes": "digest-2"}).model_of(None, []) == "shapes"


def test_an_unknown_model_is_refused_with_those_that_are_served():
    with pytest.raises(UnknownModel, match="no model 'cats' is served here; served are dogs, shapes"):
        Routing("shapes", {"shapes": "digest-2"}).model_of("cats", ["dogs"])


def test_a_lower_epoch_is_refused_and_a_higher_one_takes_over():
    routing = Routing("shapes", {"shapes": "digest-2"})
    routing.fence(3)
    routing.fence(3)
    with pytest.raises(StaleEpoch, match="epoch 2 is over, a newer controller leads with epoch 3"):
        routing.fence(2)


def test_a_fresh_broker_learns_the_epoch_from_workers_and_later_only_from_the_controller():
    routing = Routing("shapes", {"shapes": "digest-2"})
    routing.hear_of(5)
    with pytest.raises(StaleEpoch):
        routing.fence(4)
    routing.fence(6)
    routing.set_versions(SetVersions(0, 6, "shapes", "digest-1", None, {}))
    routing.hear_of(2**53)
    routing.fence(6)
