from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moretta.shared.core.errors import AttackersError
from moretta.shared.core.plugins import Registry


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """Of a package with one module, which registers nothing; `tmp_path` can hold packages of others."""
    package = tmp_path / "own_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("loaded = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("trick", group="moretta.tricks", package="own_plugins", error=AttackersError)


def install(folder: Path, name: str, content: str) -> None:
    """A distribution whose entry point names a module, as pip would leave it."""
    (folder / f"{name}_tricks.py").write_text(content)
    info = folder / f"{name}-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(f"[moretta.tricks]\n{name} = {name}_tricks\n")


def test_an_item_is_found_by_name_and_all_are_listed(registry: Registry[str]) -> None:
    registry.add("b", "second")
    registry.add("a", "first")
    assert registry.get("a") == "first"
    assert registry.names() == ["a", "b"]
    assert registry.items() == ["first", "second"]
    assert "a" in registry and "c" not in registry
    assert "own_plugins.first" in sys.modules, "modules of the own package register themselves"


def test_a_second_item_of_one_name_is_a_defect(registry: Registry[str]) -> None:
    registry.add("a", "first")
    with pytest.raises(ValueError, match="two tricks are called 'a'"):
        registry.add("a", "second")


@pytest.mark.parametrize("name", ["mine: loud", "", "Mine", "a/b", "../a", "-a", "a\n", "a" * 65, "naïve"])
def test_a_name_outside_the_grammar_is_refused(registry: Registry[str], tmp_path: Path, name: str) -> None:
    """As found: rows of the zoo are named after the plug-in, a colon, and the setting."""
    with pytest.raises(ValueError, match=r"the trick is called .* expected 1 to 64 lower-case letters"):
        registry.add(name, "first")
    install(tmp_path, "odd", f"import own_plugins\nown_plugins.registry.add({name!r}, 1)\n")
    import own_plugins

    own_plugins.registry = registry
    with pytest.raises(AttackersError, match=r"'odd' of odd 2\.1 cannot be imported.*the trick is called"):
        registry.get("a")


def test_one_name_may_occur_in_two_scopes(registry: Registry[str]) -> None:
    registry.add("none", "of voices", scope="voice")
    registry.add("none", "of faces", scope="face")
    assert registry.get("none", scope="face") == "of faces"
    assert registry.names("voice") == ["none"]
    with pytest.raises(AttackersError, match="the face trick 'blur'; expected one of: none"):
        registry.get("blur", scope="face")


def test_an_unknown_name_lists_the_known_ones(registry: Registry[str]) -> None:
    with pytest.raises(AttackersError, match="expected one of: none is installed"):
        registry.get("a")
    registry.add("a", "first")
    with pytest.raises(AttackersError, match="the trick 'b'; expected one of: a"):
        registry.get("b")


def test_an_installed_package_joins_by_entry_point(registry: Registry[str], tmp_path: Path) -> None:
    install(tmp_path, "guest", "import own_plugins\nown_plugins.registry.add('guest', 'from outside')\n")
    import own_plugins  # type: ignore[import-not-found]

    own_plugins.registry = registry
    assert registry.get("guest") == "from outside"


def test_a_package_that_cannot_be_imported_is_named_each_time(registry: Registry[str], tmp_path: Path) -> None:
    install(tmp_path, "broken", "raise RuntimeError('no GPU')\n")
    registry.add("a", "first")
    for _ in range(2):
        with pytest.raises(AttackersError, match=r"'broken' of broken 2\.1 cannot be imported.*no GPU"):
            registry.get("a")
