"""The documents say what is so: every code, every setting with its default, every link and every path."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from core.settings import Settings
from domain.errors import TITLES

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

_CODE_BLOCK: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_CODE: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
_PATH: Final = re.compile(r"\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)+/?")
_ROW: Final = re.compile(r"^\| `([A-Z_]+)` \| `(.*?)` \| (.+) \|$", re.MULTILINE)
_ERROR_ROW: Final = re.compile(r"^\| `(E\.[A-Z_.]+)` \|", re.MULTILINE)


def prose(document: Path) -> str:
    """A document without its code blocks, whose lines are not links nor headings."""
    return _CODE_BLOCK.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """What may stand behind the # of a link, as GitHub makes it from headings."""
    headings = (re.sub(r"[^\w\- ]", "", title.lower()) for title in _HEADING.findall(prose(document)))
    return {title.strip().replace(" ", "-") for title in headings}


def relative_links(document: Path) -> Iterator[tuple[Path, str]]:
    for target in _LINK.findall(prose(document)):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            yield (document.parent / name if name else document), anchor


class TestErrors:
    def test_every_code_is_explained_once(self) -> None:
        explained = _ERROR_ROW.findall((ROOT / "docs/errors.md").read_text())
        assert sorted(explained) == sorted(TITLES)

    def test_no_document_speaks_of_other_codes(self) -> None:
        probe = {"E.NOT_READY"}  # of the readiness probe, which is no part of the contract
        for document in DOCUMENTS:
            codes = set(re.findall(r"\bE(?:\.[A-Z_]+)+\b", document.read_text())) - probe
            known = {code for code in codes if code in TITLES or any(title.startswith(f"{code}.") for title in TITLES)}
            assert codes == known, document


def settings_table() -> dict[str, str]:
    """The defaults in the table of the README, by variable."""
    text = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    return {name: default for name, default, _ in _ROW.findall(text)}


class TestSettings:
    def test_every_setting_is_listed_and_no_other(self) -> None:
        assert list(settings_table()) == [_variable(name, field) for name, field in Settings.model_fields.items()]

    @pytest.mark.parametrize("name", Settings.model_fields)
    def test_default(self, name: str) -> None:
        field = Settings.model_fields[name]
        shown = settings_table()[_variable(name, field)]
        default = _shown(field.get_default(call_default_factory=True))
        assert (json.loads(shown) if shown[0] in "{[" else shown) == default


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"LONGHAUL_{name.upper()}"


def _shown(default: Any) -> Any:
    """A default as the table shows it: JSON for what has members, text for everything else."""
    if default is None:
        return "none"
    plain = default.get_secret_value() if isinstance(default, SecretStr) else to_jsonable_python(default)
    if isinstance(plain, dict | list):
        return plain
    return f"{plain:g}" if isinstance(plain, float) else json.dumps(plain).strip('"')


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestReferences:
    def test_links_lead_somewhere(self, document: Path) -> None:
        for target, anchor in relative_links(document):
            assert target.exists(), target
            assert not anchor or anchor in anchors(target), f"{target}#{anchor}"

    def test_paths_exist(self, document: Path) -> None:
        """Whatever is written like a path below one of our folders is one."""
        for text in _CODE.findall(prose(document)):
            if _PATH.fullmatch(text) and (ROOT / text.partition("/")[0]).is_dir() and not text.startswith(".data/"):
                assert (ROOT / text).exists(), text
