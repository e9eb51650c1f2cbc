"""A check as others read it: JUnit XML for test reports, Markdown for the summary of a CI job."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from clipdrift.decision import Checked, RuleResult
from clipdrift.errors import printable
from clipdrift.runs.files import storage, write_text

SUITE = "clipdrift"
_SIGNS = {"holds": "✅", "broken": "❌", "not resolved": "❔", "not checked": "⚠️"}


def junit(checked: Checked) -> str:
    """One test case per rule: failure where it makes the check fail, error where it was not checked.

    A warning, and a rule that is not resolved, is a case that passes with output. Where no rule at all could
    be resolved, or nothing could be loaded, none passes. Without rules, where BASE alone was to be kept, that
    is the one case.
    """
    cases = [_case(checked, rule) for rule in checked.rules] or [_whole(checked)]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": str(sum(case.find("error") is not None for case in cases)),
        "skipped": "0",
    }
    suite = ElementTree.Element("testsuite", {"name": _clean(f"{SUITE}: {checked.tuned}"), **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("base", "tuned", "source", "images", "strict"):
        value = _clean(str(getattr(checked, name)))
        ElementTree.SubElement(properties, "property", {"name": name, "value": value})
    suite.extend(cases)
    root = ElementTree.Element("testsuites", {"name": SUITE, **counts})
    root.append(suite)
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _case(checked: Checked, rule: RuleResult) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", {"classname": f"{SUITE}.{rule.measure.partition('/')[0]}", "name": rule.rule, "time": "0"}
    )
    said = _clean(str(rule))
    nothing = not any(one.judged for one in checked.rules) and not checked.fails(rule)
    unknown = rule.status == "not checked" and rule.severity == "error"
    if checked.fails(rule):
        kind = "failure"
    elif unknown or nothing:
        kind = "error"
    else:
        if rule.status != "holds" or rule.severity == "warn":
            ElementTree.SubElement(case, "system-out").text = said
        return case
    ElementTree.SubElement(case, kind, {"type": rule.status, "message": said}).text = said
    return case


def _whole(checked: Checked) -> ElementTree.Element:
    """The case of a check without rules."""
    case = ElementTree.Element(
        "testcase", {"classname": f"{SUITE}.baseline", "name": "baseline", "time": "0"}
    )
    if checked.error:
        said = _clean(checked.headline)
        ElementTree.SubElement(case, "error", {"type": "not kept", "message": said}).text = said
    return case


def _clean(text: str) -> str:
    """Text that XML can hold: names of files may have bytes that it forbids."""
    return printable(text.encode("utf-8", "backslashreplace").decode())


def markdown(checked: Checked) -> str:
    """A heading with the answer, a table with a row per rule, notes."""
    heading = f"### {'✅' if checked.kept else '❌'} {_cell(checked.headline)}"
    if checked.baseline:
        return f"{heading}\n\n`{_code(checked.base)}` on `{_code(checked.source)}`\n"
    lines = [
        heading,
        "",
        f"`{_code(checked.tuned)}` against `{_code(checked.base)}`, {_count(checked)} "
        f"`{_code(checked.source)}`",
        "",
        "| | rule | value | 95 % interval | standard error | how |",
        "|---|---|--:|:-:|--:|---|",
    ]
    for rule in checked.rules:
        status = rule.status + (" (warning)" if rule.severity == "warn" else "")
        error = "" if rule.standard_error is None else rule.number(rule.standard_error)
        how = "" if checked.error else rule.reason or rule.method  # the heading has the error
        cells = (rule.value_text, rule.interval_text, error, _cell(how))
        lines.append(f"| {_SIGNS[rule.status]} {status} | `{_code(rule.rule)}` | {' | '.join(cells)} |")
    lines += ["", *(f"> {_cell(note)}\n" for note in checked.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _count(checked: Checked) -> str:
    return "on" if checked.error else f"{checked.images} images of"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    """Inside backticks, in a table: a bar ends a cell there too."""
    return printable(text).replace("|", "\\|").replace("`", "'")


def write_junit(checked: Checked, path: Path) -> None:
    write_text(path, junit(checked))


def append_markdown(checked: Checked, path: Path) -> None:
    """Append, as the summaries of CI jobs are written: other steps write there too.

    Raises:
        StorageError: no room, or no right to write there.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(markdown(checked) + "\n")
