"""Numbers that are not finite are found where they began; what goes wrong slowly is said once."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.learning.watching import NotFiniteError, Recent, Watch, check_finite

NAN, INF = math.nan, math.inf


def numbers(loss: float = 1.0, kl: float = 2.0, gradient: float = 3.0) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "kl": torch.tensor(kl), "gradient": torch.tensor(gradient)}


def test_a_look_gives_the_last_updates_metrics_however_often() -> None:
    recent = Recent()
    for done in (1, 2, 3):
        recent.add(done, numbers(kl=float(done)), torch.ones(2))
    for _ in range(2):
        assert recent.look(["a", "b"]) == {"loss": 1.0, "kl": 3.0, "gradient": 3.0}
    recent.add(4, numbers(kl=4.0), torch.ones(2))
    assert recent.look(["a", "b"])["kl"] == 4.0


def test_what_an_update_reuses_is_kept_as_it_was() -> None:
    recent, metrics, norms = Recent(), numbers(), torch.tensor([NAN])
    recent.add(1, metrics, norms)
    metrics["kl"].fill_(NAN)
    norms.fill_(1.0)
    recent.add(2, numbers(), norms)
    with pytest.raises(NotFiniteError, match=r"^'gradient of a' became nan at update 1$"):
        recent.look(["a"])


def test_the_first_update_is_named_and_not_what_follows_from_it() -> None:
    recent = Recent()
    recent.add(7, numbers(), torch.ones(2))
    recent.add(8, numbers(loss=INF, kl=INF, gradient=NAN), torch.full((2,), NAN))
    recent.add(9, numbers(NAN, NAN, NAN), torch.full((2,), NAN))
    with pytest.raises(NotFiniteError, match=r"^'kl' became inf at update 8$"):
        recent.look(["a", "b"])


def test_of_a_gradient_the_parameter_is_named() -> None:
    recent = Recent()
    recent.add(8, numbers(gradient=INF), torch.tensor([1.0, INF]))
    with pytest.raises(NotFiniteError, match=r"^'gradient of encoder\.weight' became inf at update 8$"):
        recent.look(["cell.bias", "encoder.weight"])


def test_many_are_counted_and_a_sum_is_named_where_it_alone_is_infinite() -> None:
    with pytest.raises(NotFiniteError, match=r"^'a' became nan, 'b' became nan, 'c' became nan \(and 2 more\) at"):
        check_finite(1, dict.fromkeys("abcde", NAN))
    with pytest.raises(NotFiniteError, match=r"^'loss' became inf at update 1$"):
        check_finite(1, {"loss": INF, "kl": 1.0, "gradient": 1.0}, {"a": 1.0})
    check_finite(1, {"loss": 1.0, "kl": -1e30}, {"a": 0.0})


def said(watch: Watch, values: list[float], first: int = 1000) -> list[str]:
    return [text for index, value in enumerate(values) if (text := watch.look(first + 10 * index, {"kl": value}))]


def test_a_metric_out_of_its_bounds_for_a_while_is_said_once() -> None:
    low = {"low": 0.1, "below": "feed it", "high": 9.0, "above": "starve it"}
    assert said(Watch("kl", **low), [1.0, 0.01, 0.01, 0.01, 0.01, 1.0] * 3) == []
    [text] = said(Watch("kl", **low), [1.0] + [0.01] * 30 + [1.0] + [0.01] * 30)
    assert text == "'kl' is 0.01 at update 1050, and has been so for a while: feed it"
    assert "starve it" in said(Watch("kl", **low), [10.0] * 9)[0]
    assert said(Watch("kl", **low), [0.01] * 9, first=1) == []  # it has only begun


def test_growth_is_measured_by_what_was_usual() -> None:
    watch = Watch("kl", growth=100.0, above="tame it")
    assert said(watch, [500.0] * 5 + [2.0] * 20 + [150.0] * 9) == []
    [text] = said(watch, [250.0] * 9, first=5000)
    assert "250" in text and "tame it" in text
