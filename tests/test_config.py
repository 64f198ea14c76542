"""Settings: where they come from, what is refused, and that every one is documented."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from pydantic import BaseModel

from pipeline.config import (
    ENVIRONMENTS,
    PRESETS,
    SIZES,
    VARIANTS,
    Settings,
    flatten,
    parse_value,
    read_settings_file,
    resolve,
    setting_names,
)
from pipeline.errors import UsageError


def test_each_source_overrides_the_one_before() -> None:
    assert resolve("full").world.updates == Settings().world.updates
    assert resolve("tiny").world.updates == 6
    assert resolve("tiny", {"world": {"updates": 9}}).world.updates == 9
    assert resolve("tiny", {"world": {"updates": 9}}, [("world.updates", 11)]).world.updates == 11

    assert resolve("tiny", variant="v2", size="12m").model.deter == 16
    assert resolve("full", variant="v2", size="12m").model.deter == 2048
    assert resolve("full", variant="v2").model.deter == 200


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_preset_goes_with_every_variant_and_environment(preset: str, variant: str) -> None:
    published = resolve(preset, variant=variant).policy
    for env in (*ENVIRONMENTS, "Any-v0"):
        settings = resolve(preset, values=[("view.env", env)], variant=variant)
        assert settings.view.env == env and (variant == "laptop" or settings.policy == published)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_valid_for_what_has_a_recurrent_state(size: str) -> None:
    for variant in set(VARIANTS) - {"memoryless"}:
        assert resolve(variant=variant, size=size).model.groups == 32


def test_the_variants_differ_as_their_papers_do() -> None:
    """Rows of appendix tables: what the settings must come to, read off the papers and their code."""
    v1, v2, v3 = (resolve(variant=variant) for variant in ("v1", "v2", "v3"))
    assert (v1.model.deter, v1.model.stoch, v1.world.free_nats, v1.world.free) == (200, 30, 3.0, "mean")
    assert (v1.policy.gradient, v1.policy.entropy, v1.policy.slow) == ("dynamics", 0.0, "none")
    balance = v2.world.dynamics_scale / (v2.world.dynamics_scale + v2.world.representation_scale)
    assert (v2.model.groups, v2.model.classes, balance, v2.world.free) == (32, 32, 0.8, "mean")
    assert (v2.policy.slow, v2.policy.slow_rate, v2.policy.slow_every) == ("target", 1.0, 100)
    assert (v3.world.free, v3.world.dynamics_scale, v3.world.representation_scale) == ("step", 1.0, 0.1)
    assert (v3.world.optimizer, v3.world.learning_rate, v3.policy.slow, v3.policy.gradient) == (
        "laprop", 4e-5, "regulariser", "reinforce",
    )  # fmt: skip
    assert (v3.world.batch, v3.world.length, v3.policy.entropy, v3.policy.lam) == (16, 64, 3e-4, 0.95)


@pytest.mark.parametrize(
    ("variant", "values", "message"),
    [
        ("memoryless", [("model.ensemble", 5)], r"memoryless has no h for a model\.ensemble"),
        ("laptop", [("model.ensemble", 0)], r"policy\.penalty needs a model\.ensemble"),
        ("laptop", [("model.cost", False)], r"policy\.cost_ends needs model\.cost"),
        ("v3", [("policy.cost", 4.0)], r"policy\.cost needs model\.cost"),
        ("v3", [("model.deter", 260)], r"multiple of model\.blocks"),
        ("v1", [("view.continuous", False)], r"discrete actions .* policy\.gradient = reinforce"),
        ("v3", [("policy.value", "present")], r"policy\.replay_scale needs policy\.value = next"),
        ("v3", [("policy.carry", 0.5)], r"set policy\.carry to 0"),
        ("v3", [("model.ensemble", 5), ("policy.penalty", 1.0)], r"recorded rewards as they are; set policy\.penalty"),
        ("v3", [("policy.starts", 100)], r"policy\.starts must be a multiple of policy\.replay_length"),
        ("v1", [("policy.horizon", 1)], r"policy\.horizon of at least 2"),
        ("laptop", [("view.continuous", False), ("collect.policy", "brownian")], "brownian draws continuous actions"),
        ("laptop", [("view.continuous", False), ("collect.policy", "glance")], "glance draws continuous actions"),
        ("v3", [("model.depth", 5)], r"model\.encoder = pooled needs"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(
    variant: str, values: list[tuple[str, object]], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refusal:
        resolve(values=values, variant=variant)
    assert "\n" not in str(refusal.value)


def test_unknown_variants_and_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="no variant 'v4'; did you mean 'v"):
        resolve(variant="v4")
    with pytest.raises(UsageError, match="no size '13m'; did you mean '1"):
        resolve(size="13m")


def test_every_setting_says_what_it_means_and_every_number_has_bounds() -> None:
    for section in Settings.model_fields.values():
        fields = section.annotation.model_fields if _is_section(section.annotation) else {"seed": section}
        for name, field in fields.items():
            assert field.description, name
            if field.annotation in (int, float):
                assert field.metadata, f"{name} has no bounds"


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("world.update", 5, r"no setting 'world\.update'; did you mean 'world\.updates'\?"),
        ("zzz", 5, r"no setting 'zzz'; valid: .*world\.updates"),
        ("world", 5, r"no setting 'world'"),
        ("world.updates", 0, r"world\.updates = 0 .*greater than or equal to 1"),
        ("world.updates", "many", r"world\.updates = 'many' .*valid integer"),
        ("model.deter", 10**9, r"model\.deter = 1000000000 .*less than or equal"),
        ("model.bins", 254, r"model\.bins = 254 .*odd"),
        ("collect.policy", "wild", r"collect\.policy = 'wild'.*'mixture'"),
        ("view.size", 65, r"view\.size = 65 .*multiple of 32"),
    ],
)
def test_what_is_unknown_or_out_of_bounds_is_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(values=[(name, value)])


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UsageError, match="no preset 'dmeo'; did you mean 'demo'"):
        resolve("dmeo")


def test_settings_survive_a_file(tmp_path: Path) -> None:
    settings = resolve("tiny", values=[("seed", 7), ("policy.lam", 0.5)])
    path = tmp_path / "settings.toml"
    path.write_text(tomli_w.dumps(settings.model_dump()), encoding="utf-8")
    assert resolve("full", read_settings_file(path)) == settings


@pytest.mark.parametrize(("content", "message"), [(b"a = [", "is not TOML"), (b"\xff\xfe", "is not TOML")])
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_settings_file(path)
    with pytest.raises(UsageError, match="Cannot read"):
        read_settings_file(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed = 0x" + "f" * 9999, "seed = a huge number is not valid"),
        ("[model]\ndeter = 10000000000000", "less than or equal to 16384"),
        ("[world]\nbatch = 1e300", r"world\.batch = 1e\+300 is not valid"),
        ("[world]\nlearning_rate = nan", r"world\.learning_rate = nan is not valid"),
        ("[world]\nlearning_rate = inf", r"world\.learning_rate = inf is not valid"),
        (f"[collect]\npolicy = '{'x' * 9999}'", r"collect\.policy = 'xxx"),
        (f"{'x' * 9999} = 1", "no setting 'xxx"),
        ("seed = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("seed = " + "[" * 50 + "]" * 50, "seed = .* is not valid"),
        ("[[world]]\nbatch = 3", "no setting 'world'"),
        ("seed = 1\n" * 9999, "larger than 65536 bytes"),
        ("a." * 9999 + "b = 1", "nested too deeply"),
    ],
    ids=range(12),
)
def test_a_hostile_file_is_refused_in_one_short_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "theirs.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        resolve("full", read_settings_file(path))
    assert len(str(caught.value)) < 3000 and "\n" not in str(caught.value)


def test_settings_cannot_be_changed_in_place() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.world.updates = 3  # type: ignore[misc]
    assert settings.with_value("world.updates", 3).world.updates == 3
    assert settings.world.updates != 3


def test_values_are_toml_or_plain_text() -> None:
    assert [parse_value(text) for text in ("3", "1e-4", "true", "smooth", '"smooth"')] == [
        3, 1e-4, True, "smooth", "smooth",
    ]  # fmt: skip


def test_section_values() -> None:
    values = Settings().section_values(("seed", "policy"))
    assert values["seed"] == 0
    assert {name.split(".")[0] for name in values} == {"seed", "policy"}
    assert set(flatten(Settings().model_dump())) == set(setting_names())


@pytest.mark.parametrize("text", ["[1]", "{", "1", "[" * 1900, '{"g": NaN}', 3])
def test_the_arguments_of_an_environment_are_a_json_object(text: object) -> None:
    with pytest.raises(UsageError, match="not a JSON object"):
        resolve(values=[("view.env_kwargs", text)])
    assert resolve(values=[("view.env_kwargs", '{"b": 1,\n"a": {}}')]).view.env_kwargs == '{"a": {}, "b": 1}'


def test_what_demo_changes_beneath_gives_way_to_variants_and_environments() -> None:
    assert (resolve("demo").policy.carry, resolve("demo").policy.distribution) == (0.0, "bounded-normal")
    assert (resolve("full").policy.carry, resolve("full").policy.distribution) == (0.75, "wide-normal")
    assert resolve("demo", variant="v1").policy.distribution == "tanh-normal"
    assert (resolve("demo").policy.slow_rate, resolve("demo", variant="v2").policy.slow_rate) == (0.1, 1.0)
    assert resolve("demo", values=[("view.env", "Pendulum-v1")]).policy.carry == 0.75
