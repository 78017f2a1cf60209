"""The report of an evaluation as files: JSON for programs, Markdown for a review, HTML for a browser."""

from collections.abc import Iterable, Sequence

from domain.evaluation import Change, Estimate, EvaluationReport, Metric, Verdict
from rendering.exports import RenderedFile
from rendering.html_pieces import page, template
from rendering.markup import Html, element, joined, sanitised, text

_VERDICTS = {
    Verdict.GOOD: "Good",
    Verdict.REGRESSED: "Worse than the run before",
    Verdict.BELOW_FLOOR: "Below what is acceptable",
}
_LEAST_SHOWN = 0.0005

Row = Sequence[str]


def evaluation_files(report: EvaluationReport) -> list[RenderedFile]:
    """The report in every form; equal reports give equal bytes."""
    return [
        RenderedFile("evaluation.json", "application/json", report.model_dump_json(indent=1).encode()),
        RenderedFile("evaluation.md", "text/markdown; charset=utf-8", _markdown(report).encode()),
        RenderedFile("evaluation.html", "text/html; charset=utf-8", _html(report)),
    ]


# --- what is told -----------------------------------------------------------------------------------


def _facts(report: EvaluationReport) -> list[tuple[str, str]]:
    prompts = ", ".join(f"{name} {version}" for name, version in sorted(report.prompts.items()))
    return [
        ("Verdict", _VERDICTS[report.verdict]),
        ("Job", str(report.job_id)),
        ("Compared with", str(report.baseline_job_id or "nothing: only the floors count")),
        ("Golden set", f"{report.golden_set} {report.checksum[:12]}"),
        ("Model", f"{report.provider} {report.model}"),
        ("Prompts", prompts),
        ("Samples a case", str(report.samples)),
        ("Samples without a fault", _estimate(report.passed)),
        ("Calls", str(report.calls)),
        ("Tokens", f"{report.input_tokens} in, {report.output_tokens} out"),
        ("Cost", f"{report.cost_usd:f} USD"),
        ("Judged", report.judged_at.strftime("%Y-%m-%d %H:%M:%S UTC")),
    ]


def _tables(report: EvaluationReport) -> list[tuple[str, Row, list[Row]]]:
    """Every table as its title, its header and its rows; those without a row are left out."""
    metrics = [metric for metric in Metric if metric in report.scores]
    worse = [_change(change) for change in report.changes if change.worse]
    floors = [
        (fault.metric.value, f"{fault.mean:.3f}", f"{fault.floor:.2f}", ", ".join(fault.cases))
        for fault in report.floors
    ]
    scores = [(metric.value, _estimate(report.scores[metric])) for metric in metrics]
    cases = [
        (
            case.case,
            *(_estimate(case.scores[metric]) for metric in metrics),
            _estimate(case.passed),
            f"{case.seconds.mean:.2f}",
            f"{case.cost_usd:f}",
        )
        for case in report.cases
    ]
    faults = [(case.case, ", ".join(case.faults)) for case in report.cases if case.faults]
    moved = [
        _change(change) for change in report.changes if not change.worse and abs(change.difference.mean) > _LEAST_SHOWN
    ]
    header = ("metric", "case", "before", "now", "difference")
    tables: list[tuple[str, Row, list[Row]]] = [
        ("Worse than before", header, [*worse]),
        ("Below the floor", ("metric", "mean", "floor", "cases"), [*floors]),
        ("All cases", ("metric", "mean"), [*scores]),
        ("Each case", ("case", *metrics, "without a fault", "seconds", "USD"), [*cases]),
        ("Faults", ("case", "checks that failed"), [*faults]),
        ("Other changes", header, [*moved]),
    ]
    return [table for table in tables if table[2]]


def _change(change: Change) -> Row:
    case = change.case or (f"all (most: {', '.join(change.worst)})" if change.worst else "all")
    return (change.metric.value, case, f"{change.before:.3f}", f"{change.now:.3f}", _estimate(change.difference))


def _estimate(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


# --- forms ------------------------------------------------------------------------------------------


def _markdown(report: EvaluationReport) -> str:
    parts = ["# Evaluation\n", "\n".join(f"- {name}: {value}" for name, value in _facts(report)) + "\n"]
    for title, header, rows in _tables(report):
        lines = [_line(header), _line(["---"] * len(header)), *map(_line, rows)]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _html(report: EvaluationReport) -> bytes:
    facts = (element("div", element("dt", text(name)), element("dd", text(value))) for name, value in _facts(report))
    tables = (_table(*table) for table in _tables(report))
    main = element("main", element("h1", text("Evaluation")), element("dl", *facts, class_="facts"), *tables, id="main")
    return page(
        language="en",
        title=f"Evaluation: {_VERDICTS[report.verdict]}",
        css=template("course.css") + template("report.css"),
        body=sanitised(element("div", main, class_="page")),
    )


def _table(title: str, header: Row, rows: Sequence[Row]) -> Html:
    head = element("thead", element("tr", *(element("th", text(cell), scope="col") for cell in header)))
    body = element("tbody", *(_row(row) for row in rows))
    # A wide table scrolls by itself, also by keyboard, and not the page with it.
    name = title.lower().replace(" ", "-")
    framed = element(
        "div", element("table", head, body), class_="scroll", role="region", tabindex="0", aria_labelledby=name
    )
    return joined([element("h2", text(title), id=name), framed])


def _row(cells: Row) -> Html:
    first = element("th", text(cells[0]), scope="row")
    return element("tr", first, *(element("td", text(cell)) for cell in cells[1:]))
