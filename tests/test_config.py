"""Settings: where they come from, what is refused, and that every one is documented."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from pydantic import BaseModel

from pipeline.config import PRESETS, Settings, flatten, parse_value, read_settings_file, resolve, setting_names
from pipeline.errors import UsageError


def test_each_source_overrides_the_one_before() -> None:
    assert resolve("full").world.updates == Settings().world.updates
    assert resolve("tiny").world.updates == 6
    assert resolve("tiny", {"world": {"updates": 9}}).world.updates == 9
    assert resolve("tiny", {"world": {"updates": 9}}, [("world.updates", 11)]).world.updates == 11


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset: str) -> None:
    assert isinstance(resolve(preset), Settings)


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
