"""Changing one factor of a model."""

import pytest

from grouped_conv_jax.optim import Factors, set_factor

FACTORS = Factors(
    learn_rate={"conv": {"weights": 1.0, "bias": 1.0}, "head": [{"kernel": 1.0}]},
    l2={"conv": {"weights": 1.0, "bias": 0.0}, "head": [{"kernel": 1.0}]},
)


def test_only_what_is_named_changes():
    assert set_factor(FACTORS, "conv/weights", learn_rate=0.25) == Factors(
        learn_rate={"conv": {"weights": 0.25, "bias": 1.0}, "head": [{"kernel": 1.0}]},
        l2=FACTORS.l2,
    )
    assert set_factor(FACTORS, "head/0/kernel", l2=2) == Factors(
        learn_rate=FACTORS.learn_rate,
        l2={"conv": {"weights": 1.0, "bias": 0.0}, "head": [{"kernel": 2.0}]},
    )
    both = set_factor(FACTORS, "conv/bias", learn_rate=0, l2=3.0)
    assert (both.learn_rate["conv"]["bias"], both.l2["conv"]["bias"]) == (0.0, 3.0)


def test_the_factors_given_stay_as_they_are():
    set_factor(FACTORS, "conv/weights", learn_rate=0.0, l2=0.0)
    assert FACTORS.learn_rate["conv"]["weights"] == FACTORS.l2["conv"]["weights"] == 1.0


@pytest.mark.parametrize("path", ["conv", "conv/kernel", "/conv/weights", "head/1/kernel", ""])
def test_an_unknown_path_is_an_error_that_names_the_paths_there_are(path):
    with pytest.raises(KeyError) as error:
        set_factor(FACTORS, path, learn_rate=0.5)
    assert error.value.args == (
        f"no learnable at {path!r}; there are 'conv/bias', 'conv/weights', 'head/0/kernel'",
    )


@pytest.mark.parametrize("name", ["learn_rate", "l2"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [(-0.5, ValueError), (float("nan"), ValueError), ("1", TypeError), (True, TypeError)],
)
def test_bad_factors_are_refused(name, value, kind):
    with pytest.raises(kind) as error:
        set_factor(FACTORS, "conv/bias", **{name: value})
    assert str(error.value) == f"{name} must be a nonnegative finite number, got {value!r}"


def test_a_call_that_would_change_nothing_is_refused():
    with pytest.raises(ValueError, match="learn_rate or l2 must be given, got None for both"):
        set_factor(FACTORS, "conv/bias")
    with pytest.raises(TypeError, match=r"factors must be the Factors .*, got dict"):
        set_factor({}, "conv/bias", l2=1.0)
