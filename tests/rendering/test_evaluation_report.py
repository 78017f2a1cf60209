import json
from html.parser import HTMLParser
from uuid import UUID

from domain.evaluation import EvaluationReport
from domain.evaluation_report import make_report
from rendering.evaluation_report import evaluation_files
from tests.support.evaluation import facts, sample


def report(*, coverage: float) -> EvaluationReport:
    samples = [sample(case, number, coverage=coverage) for case in "ab" for number in (1, 2)]
    before = [sample(case, number) for case in "ab" for number in (1, 2)]
    return make_report(facts(), samples, before)


class Tags(HTMLParser):
    """Counts elements, and notices those that are not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_three_forms_of_the_same() -> None:
    files = {file.name: file for file in evaluation_files(report(coverage=0.5))}
    assert list(files) == ["evaluation.json", "evaluation.md", "evaluation.html"]
    assert EvaluationReport.model_validate_json(files["evaluation.json"].body) == report(coverage=0.5)
    assert json.loads(files["evaluation.json"].body)["verdict"] == "regressed"
    markdown = files["evaluation.md"].body.decode()
    assert "- Verdict: Worse than the run before" in markdown
    assert "| coverage | a | 1.000 | 0.500 | -0.500 |" in markdown
    assert "## Below the floor" in markdown
    page = Tags(files["evaluation.html"].body.decode())
    assert page.open == []
    assert page.seen.count("table") == markdown.count("## ")
    assert "script" not in page.seen


def test_a_good_run_has_nothing_to_complain_about() -> None:
    markdown = evaluation_files(report(coverage=1.0))[1].body.decode()
    assert "- Verdict: Good" in markdown
    assert "Worse than before" not in markdown
    assert "Below the floor" not in markdown
    assert "## Faults" not in markdown


def test_equal_reports_equal_bytes() -> None:
    assert evaluation_files(report(coverage=0.5)) == evaluation_files(report(coverage=0.5))
    other = report(coverage=0.5).model_copy(update={"job_id": UUID(int=1)})
    assert evaluation_files(other) != evaluation_files(report(coverage=0.5))
