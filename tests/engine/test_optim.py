from __future__ import annotations

import pytest
from torch import nn

from stpipe.config.errors import ConfigError
from stpipe.engine.optim import AdamW, ParameterGroup, class_paths, parameter_groups


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.norm = nn.LayerNorm(2)


def model() -> nn.Module:
    return nn.ModuleDict({"body": nn.Linear(4, 4), "head": Head()})


def rates(groups: list[dict], net: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(p): n for n, p in net.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_class_paths_name_the_classes_on_the_way() -> None:
    paths = {name: path for name, path, _ in class_paths(model())}
    assert paths["head.linear.weight"] == "Head.Linear.weight"
    assert paths["body.bias"] == "Linear.bias"


def test_patterns_match_names_and_class_paths_and_later_ones_win() -> None:
    net = model()
    groups = parameter_groups(
        net,
        {
            "all_head": ParameterGroup(match=r"^head\.", lr=1e-3),
            "norm": ParameterGroup(match=r"Head\.LayerNorm", lr=5e-4, weight_decay=0.5),
        },
        lr=1e-5,
        weight_decay=0.1,
    )
    assert rates(groups, net) == {
        "body.weight": (1e-5, 0.1),
        "body.bias": (1e-5, 0.0),
        "head.linear.weight": (1e-3, 0.1),
        "head.linear.bias": (1e-3, 0.0),
        "head.norm.weight": (5e-4, 0.5),
        "head.norm.bias": (5e-4, 0.5),
    }


def test_freeze_takes_parameters_out() -> None:
    net = model()
    groups = parameter_groups(net, {"body": ParameterGroup(match="^body", freeze=True)}, lr=1.0, weight_decay=0.0)
    assert set(rates(groups, net)) == {"head.linear.weight", "head.linear.bias", "head.norm.weight", "head.norm.bias"}
    assert not net["body"].weight.requires_grad


def test_what_the_model_keeps_fixed_stays_so_and_later_groups_win() -> None:
    net = model()
    net["head"].linear.weight.requires_grad_(False)
    groups = {
        "all": ParameterGroup(match="head", freeze=True),
        "norm": ParameterGroup(match="norm", lr=1e-3),
        "w": ParameterGroup("weight"),
    }
    found = rates(parameter_groups(net, groups, lr=1e-4, weight_decay=0.0), net)
    assert set(found) == {"body.weight", "body.bias", "head.norm.weight", "head.norm.bias"}


def test_a_pattern_that_matches_nothing_is_refused_with_examples() -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer\.groups\.static\.match.*matches no parameter.*head\.norm\.bias \(Head\.LayerNorm\.bias\)"
    ):
        AdamW(groups={"static": ParameterGroup(match=r"SparseStaticEmbedding\.weight", lr=1e-3)}).build(model())


def test_everything_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        AdamW(groups={"all": ParameterGroup(match=".", freeze=True)}).build(model())


def test_optimizer_keeps_peak_rates_beside_current_ones() -> None:
    optimizer = AdamW(lr=3e-4, groups={"head": ParameterGroup(match="^head", lr=1e-3)}).build(model())
    assert {g["base_lr"] for g in optimizer.param_groups} == {3e-4, 1e-3}
