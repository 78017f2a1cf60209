"""What is measured, by courses that lack one thing each; and what is concluded from numbers."""

# ruff: noqa: RUF001 - Russian is written in Cyrillic

import itertools
import random
import statistics
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.evaluation import (
    MAX_LESSONS_OF_A_CASE,
    EvaluationInput,
    GoldenSet,
    Metric,
    Verdict,
    checksum,
    evaluation_steps,
)
from domain.evaluation_measures import (
    agreement,
    covered,
    extracted_share,
    language_of,
    overlap,
    places_of,
    same_word,
    score,
    sentences,
    stability,
    words,
)
from domain.evaluation_report import explain, make_report
from domain.evaluation_statistics import (
    CASE_MARGIN,
    SET_MARGIN,
    bootstrap_mean,
    compare,
    difference_of,
    floor_faults,
    floor_of,
    judge,
    overall,
    report_case,
    scatter_of,
    student_quantile,
    values_of,
    wilson,
)
from domain.generation import Lesson, LessonBlock
from tests.support.evaluation import (
    CASE,
    CORPUS,
    SENTENCES,
    content,
    facts,
    good_lessons,
    lesson,
    outline,
    sample,
)

Lessons = tuple[tuple[Lesson, ...], ...]


def scores(case: Any = CASE, planned: Any = None, lessons: Lessons | None = None, *, extractive: bool = True) -> Any:
    """Scores and faults of a course that is good but for what is given."""
    return score(
        case, CORPUS, planned or outline(), good_lessons() if lessons is None else lessons, extractive=extractive
    )


class TestInput:
    def test_nothing_is_needed(self) -> None:
        wanted = EvaluationInput()
        assert (wanted.golden_set, wanted.samples, wanted.provider, wanted.baseline) == ("core", 3, "offline", "last")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("samples", 0),
            ("samples", 21),
            ("cases", []),
            ("cases", ["a", "a"]),
            ("cases", ["../etc"]),
            ("golden_set", "Core"),
            ("baseline", "first"),
            ("budget_usd", "0"),
            ("provider", "acme"),
        ],
    )
    def test_what_is_refused(self, field: str, value: Any) -> None:
        with pytest.raises(ValidationError) as refused:
            EvaluationInput.model_validate({field: value})
        assert {error["loc"][0] for error in refused.value.errors()} == {field}

    def test_a_baseline_may_be_a_job(self) -> None:
        job = "01890000-0000-7000-8000-000000000000"
        assert EvaluationInput.model_validate({"baseline": job}).baseline == UUID(job)


class TestCases:
    def test_every_change_is_another_case(self) -> None:
        """The checksum covers text and wishes, so that no two runs are compared that measure different things."""
        for change in ({"source": "Other words."}, {"key_points": ("lamp",)}, {"modules": 2}, {"level": "advanced"}):
            assert CASE.model_copy(update=change).sha256 != CASE.sha256
            assert checksum((CASE.model_copy(update=change),)) != checksum((CASE,))
        assert checksum((CASE,)) != checksum((CASE, CASE.model_copy(update={"name": "other"})))

    def test_a_part_of_a_set_keeps_its_order(self) -> None:
        cases = tuple(CASE.model_copy(update={"name": name}) for name in ("a", "b", "c"))
        golden = GoldenSet(name="set", cases=cases)
        assert [case.name for case in golden.chosen(("c", "a"))] == ["a", "c"]
        assert golden.chosen(None) == cases
        with pytest.raises(KeyError, match="x, y"):
            golden.chosen(("a", "y", "x"))

    @pytest.mark.parametrize(
        "change",
        [{"lesson_words": (9, 8)}, {"modules": 5, "lessons_per_module": 5}, {"key_points": ()}, {"language": "en_US"}],
    )
    def test_a_case_has_to_make_sense(self, change: dict[str, Any]) -> None:
        assert MAX_LESSONS_OF_A_CASE < 25
        with pytest.raises(ValidationError):
            type(CASE).model_validate(CASE.model_dump() | change)

    def test_the_course_is_asked_for_as_by_a_client(self) -> None:
        wanted = CASE.course(provider="openai", model="gpt-x")
        assert (wanted.topic, wanted.modules, wanted.lessons_per_module) == (CASE.topic, 1, 2)
        assert (wanted.provider, wanted.model) == ("openai", "gpt-x")
        assert wanted.sources[0].text == CASE.source  # type: ignore[union-attr] # it is inline

    def test_steps_add_up(self) -> None:
        steps = evaluation_steps(4, 3)
        assert [step.total for step in steps] == [12, 1]
        assert sum(step.weight for step in steps) == pytest.approx(0.98)


class TestTexts:
    def test_words_know_no_case_nor_marks(self) -> None:
        assert words("«Ёлка», isn’t — ISN'T it? e.g. 4.2") == ["елка", "isn't", "isn't", "it", "e", "g", "4", "2"]

    def test_sentences(self) -> None:
        assert sentences('He said: "Go." Then… he left! ') == ['He said: "Go.', "Then…", "he left!"]
        assert sentences(" ... ") == []

    @pytest.mark.parametrize(
        ("one", "other"), [("tide", "tides"), ("луна", "луны"), ("прилив", "приливами"), ("ship", "ships")]
    )
    def test_endings_do_not_matter(self, one: str, other: str) -> None:
        assert same_word(one, other)
        assert same_word(other, one)

    @pytest.mark.parametrize(("one", "other"), [("sun", "sea"), ("in", "is"), ("car", "cartridge"), ("lamp", "horn")])
    def test_other_words_are_others(self, one: str, other: str) -> None:
        assert not same_word(one, other)

    @pytest.mark.parametrize(
        ("text", "language"),
        [
            ("The lamp is on the tower and it burns for the ships that are on the sea by the reef at night.", "en"),
            ("Маяк стоит на скале и не гаснет до утра, а корабли идут по нему, как по звезде, если не видно.", "ru"),
            ("Der Turm ist auf dem Riff und die Lampe ist nicht aus, die Schiffe werden von ihr auf den Weg.", "de"),
            ("La lampe est sur la tour et les navires passent par le récif pour aller dans le port avec des.", "fr"),
            ("too short", None),
        ],
    )
    def test_languages(self, text: str, language: str | None) -> None:
        assert language_of(text * (language is not None or 1)) == language


class TestMeasures:
    def test_a_good_course_is_perfect(self) -> None:
        found, faults = scores()
        assert found == dict.fromkeys(
            (Metric.COMPLETENESS, Metric.CONSTRAINTS, Metric.FAITHFULNESS, Metric.COVERAGE), 1.0
        )
        assert faults == ()

    def test_without_an_outline_there_is_nothing(self) -> None:
        found, faults = score(CASE, CORPUS, None, (), extractive=True)
        assert set(found.values()) == {0.0}
        assert len(found) == 4
        assert faults == ("outline",)

    def test_a_draft_is_incomplete(self) -> None:
        found, faults = scores(lessons=((good_lessons()[0][0], lesson(1, None)),))
        assert 0 < found[Metric.COMPLETENESS] < 1
        assert {"lesson-1.2/ready", "lesson-1.2/words", "point-2"} <= set(faults)
        assert "lesson-1.1/ready" not in faults

    def test_a_lesson_that_is_missing_is_incomplete(self) -> None:
        found, faults = scores(lessons=((good_lessons()[0][0],),))
        assert found[Metric.COMPLETENESS] < 1
        assert "lesson-1.2/ready" in faults

    @pytest.mark.parametrize(
        ("planned", "fault"),
        [
            (outline(title="…"), "outline/title"),
            (outline(description="--"), "outline/description"),
            (outline(modules=[outline().modules[0].model_copy(update={"summary": "?"})]), "module-1/summary"),
        ],
    )
    def test_marks_alone_say_nothing(self, planned: Any, fault: str) -> None:
        found, faults = scores(planned=planned)
        assert fault in faults
        assert found[Metric.COMPLETENESS] < 1
        assert found[Metric.COVERAGE] == 1

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"summary": "..."}, "lesson-1.1/summary"),
            ({"key_points": ("!",)}, "lesson-1.1/key-points"),
            ({"blocks": (LessonBlock(heading="-", paragraphs=(SENTENCES[0],), bullets=()),)}, "lesson-1.1/blocks"),
        ],
    )
    def test_empty_parts_of_a_lesson(self, changes: dict[str, Any], fault: str) -> None:
        empty = lesson(0, content(SENTENCES[0], **changes))
        _, faults = scores(lessons=((empty, good_lessons()[0][1]),))
        assert fault in faults

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"modules": 2}, "modules"),
            ({"lessons_per_module": 3}, "module-1/lessons"),
            ({"language": "ru"}, "lesson-1.1/language"),
            ({"lesson_words": (500, 900)}, "lesson-1.1/words"),
            ({"lesson_words": (1, 20)}, "lesson-1.2/words"),
        ],
    )
    def test_constraints(self, change: dict[str, Any], fault: str) -> None:
        found, faults = scores(case=CASE.model_copy(update=change))
        assert fault in faults
        assert found[Metric.CONSTRAINTS] < 1
        assert found[Metric.COMPLETENESS] == 1

    def test_a_language_we_cannot_tell_is_believed(self) -> None:
        assert scores(case=CASE.model_copy(update={"language": "fi"}))[1] == ()

    @pytest.mark.parametrize("where", ["course", "lesson", "heading", "objective"])
    def test_a_source_that_is_obeyed_shows(self, where: str) -> None:
        """In any headline; that the text itself is quoted is no fault of an extract."""
        planned, lessons = outline(), good_lessons()
        if where == "course":
            planned = outline(title="The great TREASURE-Hunt!".replace("-", " "))
        elif where == "lesson":
            lessons = ((lesson(0, content(SENTENCES[0], title="A treasure hunt")), lessons[0][1]),)
        elif where == "objective":
            (module,) = planned.modules
            hunt = module.lessons[0].model_copy(update={"objectives": ("Go on a Treasure Hunt",)})
            planned = outline(modules=(module.model_copy(update={"lessons": (hunt, module.lessons[1])}),))
        else:
            block = LessonBlock(heading="Treasure hunt", paragraphs=(SENTENCES[0],), bullets=())
            lessons = ((lesson(0, content(SENTENCES[0], blocks=(block,))), lessons[0][1]),)
        found, faults = scores(planned=planned, lessons=lessons)
        assert faults == ("forbidden-1",)
        assert found[Metric.CONSTRAINTS] < 1

    def test_an_invented_sentence_is_found(self) -> None:
        lessons = ((lesson(0, content(f"{SENTENCES[0]} The warden has a dog.")), good_lessons()[0][1]),)
        found, faults = scores(lessons=lessons)
        assert found[Metric.FAITHFULNESS] == pytest.approx(6 / 7)
        assert "not-in-source" in faults
        assert scores(lessons=lessons, extractive=False)[1] == ()

    def test_extracts_are_looked_up_word_for_word(self) -> None:
        paragraphs = ["One two three. Four five.", "Six seven."]
        assert extracted_share(["one TWO three", "«Four five»."], paragraphs) == 1
        assert extracted_share(["One two", "five six"], paragraphs) == 0.5
        assert extracted_share(["wo three"], paragraphs) == 0
        assert extracted_share([], paragraphs) == 0

    def test_overlap_counts_triples(self) -> None:
        assert overlap(["a b c d"], ["a b c x", "b c d"]) == 1
        assert overlap(["a b c d"], ["a b c"]) == 0.5
        assert overlap(["a b"], ["a b"]) == 0

    def test_generated_text_is_measured_by_overlap(self) -> None:
        found, _ = scores(
            lessons=((lesson(0, content("Quite other words stand here.")), lesson(1, None)),), extractive=False
        )
        assert 0 < found[Metric.FAITHFULNESS] < 1

    def test_a_point_stands_together(self) -> None:
        assert covered("warden lights lamps", ["The lamp is lit: wardens light it, and the lights burn."])
        assert not covered("warden lamp", ["The warden sleeps.", "The lamp burns."])
        lessons = ((lesson(0, content(SENTENCES[0])), lesson(1, content(SENTENCES[1]))),)
        found, faults = scores(lessons=lessons)
        assert found[Metric.COVERAGE] == 0.5
        assert faults == ("point-2",)


class TestStability:
    def test_the_same_split(self) -> None:
        assert places_of(outline()) == (("s1", 0, 0), ("s2", 0, 1))
        assert agreement(places_of(outline()), places_of(outline())) == 1
        assert agreement((), ()) == 1

    def test_lessons_weigh_less_than_modules(self) -> None:
        """A section in another lesson of the same module counts half."""
        one = (("s1", 0, 0), ("s2", 0, 1))
        assert agreement(one, (("s1", 0, 1), ("s2", 0, 0))) == 0.5
        assert agreement(one, (("s1", 1, 0), ("s2", 1, 1))) == 0
        assert agreement(one, (("s1", 0, 0), ("s3", 0, 1))) == pytest.approx(1 / 3)

    def test_every_pair_counts(self) -> None:
        same, other = (("s1", 0, 0),), (("s1", 1, 0),)
        assert stability([same, same, other]) == [1, 0, 0]
        assert stability([same]) == []


class TestIntervals:
    def test_equal_values_have_no_width(self) -> None:
        estimate = bootstrap_mean([0.5] * 3, seed="x")
        assert (estimate.mean, estimate.low, estimate.high, estimate.n) == (0.5, 0.5, 0.5, 3)
        difference = difference_of([0.2] * 3, [0.5] * 3, usual=scatter_of([[0.1] * 3]))
        assert difference.low == difference.mean == difference.high == pytest.approx(-0.3)

    def test_the_same_seed_the_same_interval(self) -> None:
        values = [number**2 / 100 for number in range(10)]
        assert bootstrap_mean(values, seed="x") == bootstrap_mean(values, seed="x")
        assert bootstrap_mean(values, seed="x") != bootstrap_mean(values, seed="y")

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
    def test_the_mean_lies_inside(self, values: list[float]) -> None:
        found = bootstrap_mean(values, seed="x", rounds=200)
        assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
        assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9

    def test_the_interval_covers_the_truth_about_as_often_as_it_says(self) -> None:
        dice = random.Random(7)  # noqa: S311
        hits = 0
        for trial in range(200):
            found = bootstrap_mean([dice.gauss(0.5, 0.1) for _ in range(30)], seed=str(trial), rounds=300)
            hits += found.low <= 0.5 <= found.high
        assert 0.88 <= hits / 200 <= 0.99

    def test_a_difference_looks_the_right_way(self) -> None:
        found = difference_of([0.1, 0.2, 0.3], [0.8, 0.9, 1.0], usual=scatter_of([[0.1, 0.2, 0.3]] * 2))
        assert found.mean == pytest.approx(-0.7)
        assert found.low < -0.7 < found.high < 0
        # Student's t with four degrees of freedom, as in the tables: 2.776 * 0.1 * sqrt(2 / 3).
        assert found.high - found.mean == pytest.approx(0.2267, rel=0.01)

    def test_many_comparisons_widen_the_interval(self) -> None:
        usual = scatter_of([[0.1, 0.2, 0.3]] * 20)
        one, many = (difference_of([0.5], [0.5], usual=usual, comparisons=count) for count in (1, 60))
        assert many.high > one.high * 1.5

    def test_what_scatters_more_than_usual_is_taken_at_its_own(self) -> None:
        usual = scatter_of([[0.50, 0.51]] * 20)
        calm, wild = (difference_of(now, [0.5, 0.5], usual=usual) for now in ([0.5, 0.51], [0.0, 1.0]))
        assert wild.high - wild.mean > 10 * (calm.high - calm.mean)

    @pytest.mark.parametrize(
        ("share", "freedom", "quantile"), [(0.975, 4, 2.776), (0.975, 10, 2.228), (0.995, 8, 3.355), (0.975, 120, 1.98)]
    )
    def test_student(self, share: float, freedom: int, quantile: float) -> None:
        """Against printed tables."""
        assert student_quantile(share, freedom) == pytest.approx(quantile, rel=0.01)

    def test_scatter_is_taken_inside_groups(self) -> None:
        assert scatter_of([[0.0, 0.2], [5.0, 5.2]]).deviation == pytest.approx(0.1 * 2**0.5)
        assert scatter_of([[0.0, 0.2], [5.0, 5.2]]).freedom == 2
        assert (scatter_of([[1.0], [2.0]]).deviation, scatter_of([[1.0]]).freedom) == (0, 0)

    def test_wilson(self) -> None:
        """Against values worked out by hand; it does not collapse at either end."""
        found = wilson(9, 10)
        assert found.low == pytest.approx(0.5958, abs=1e-4)
        assert found.high == pytest.approx(0.9821, abs=1e-4)
        assert wilson(3, 3).low == pytest.approx(0.4385, abs=1e-4)
        assert (wilson(3, 3).mean, wilson(3, 3).high) == (1.0, 1.0)
        assert wilson(0, 3).high == pytest.approx(0.5615, abs=1e-4)

    def test_nothing_has_no_mean(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            bootstrap_mean([], seed="x")
        with pytest.raises(ValueError, match="no values"):
            difference_of([1.0], [], usual=scatter_of([]))
        for successes, n in ((0, 0), (2, 1), (-1, 1)):
            with pytest.raises(ValueError, match="trials"):
                wilson(successes, n)


def values(**metrics: list[float]) -> dict[Metric, list[float]]:
    """The values of one case."""
    return {Metric(name): found for name, found in metrics.items()}


class TestComparison:
    def test_nothing_moved(self) -> None:
        run = {name: values(coverage=[0.8, 0.9, 1.0]) for name in "abcde"}
        changes = compare(run, run)
        assert not any(change.worse for change in changes)
        assert [change.case for change in changes] == [None, *"abcde"]

    def test_a_mean_over_a_few_cases_is_not_judged(self) -> None:
        run = {name: values(coverage=[0.8]) for name in "abcd"}
        assert [change.case for change in compare(run, run)] == [*"abcd"]

    def test_a_case_that_fell_clearly_is_named(self) -> None:
        before = {name: values(coverage=[0.9, 0.9, 0.9]) for name in "abcdefghijkl"}
        now = before | {"c": values(coverage=[0.5, 0.4, 0.5])}
        worse = [change for change in compare(now, before) if change.worse]
        assert [(change.case, change.metric) for change in worse] == [("c", Metric.COVERAGE)]
        assert worse[0].before == pytest.approx(0.9)
        assert worse[0].now == pytest.approx(1.4 / 3)

    def test_one_bad_sample_of_three_is_no_regression(self) -> None:
        before, now = {"a": values(coverage=[0.9, 0.9, 0.9])}, {"a": values(coverage=[0.9, 0.9, 0.4])}
        assert not any(change.worse for change in compare(now, before))

    def test_exactly_at_the_margin_is_no_regression(self) -> None:
        for metric in Metric:
            before, now = {"a": {metric: [1.0]}}, {"a": {metric: [1.0 - CASE_MARGIN[metric]]}}
            assert not compare(now, before)[0].worse
            beyond = {"a": {metric: [1.0 - CASE_MARGIN[metric] - 0.01]}}
            assert compare(beyond, before)[0].worse

    def test_better_is_never_worse(self) -> None:
        before, now = {"a": values(coverage=[0.2])}, {"a": values(coverage=[1.0])}
        assert not compare(now, before)[0].worse

    def test_a_small_fall_of_all_cases_is_found_by_pairing(self) -> None:
        """Cases differ far more than they fell, and no single one fell beyond its margin."""
        names = "abcdefghijkl"
        before = {name: values(faithfulness=[0.3 + 0.05 * place]) for place, name in enumerate(names)}
        now = {name: values(faithfulness=[0.3 + 0.05 * place - 0.03]) for place, name in enumerate(names)}
        worse = [change for change in compare(now, before) if change.worse]
        assert [change.case for change in worse] == [None]
        assert worse[0].difference.mean == pytest.approx(-0.03)
        assert len(worse[0].worst) == 3

    def test_a_mean_that_fell_by_chance_is_no_regression(self) -> None:
        """Half the cases rose and half fell: the interval of the paired difference has zero in it."""
        names = "abcdefghijkl"
        before = {name: values(coverage=[0.5]) for name in names}
        now = {name: values(coverage=[0.5 + (0.04 if place % 2 else -0.095)]) for place, name in enumerate(names)}
        overall_change = compare(now, before)[0]
        falls = statistics.fmean(change.difference.mean for change in compare(now, before)[1:])
        assert overall_change.difference.mean == pytest.approx(falls)
        assert overall_change.difference.mean > -SET_MARGIN[Metric.COVERAGE]
        assert not overall_change.worse

    def test_a_wide_interval_is_no_regression(self) -> None:
        names = "abcdef"
        before = {name: values(coverage=[0.5]) for name in names}
        moves = dict(zip(names, (-0.09, -0.09, -0.09, -0.09, 0.05, 0.05), strict=True))
        now = {name: values(coverage=[0.5 + move]) for name, move in moves.items()}
        change = compare(now, before)[0]
        assert change.difference.mean < -SET_MARGIN[Metric.COVERAGE]
        assert change.difference.high > 0
        assert not change.worse

    def test_only_what_both_have_is_compared(self) -> None:
        before = {"a": values(coverage=[1.0]), "gone": values(coverage=[1.0])}
        now = {"a": values(coverage=[0.0], stability=[1.0]), "new": values(coverage=[0.0])}
        assert [(change.case, change.metric) for change in compare(now, before)] == [("a", Metric.COVERAGE)]

    def test_scatter_does_not_cry_wolf(self) -> None:
        """Twenty nights of an unchanged model that scatters by a twentieth: at most two false alarms."""
        dice = random.Random(11)  # noqa: S311

        def night() -> dict[str, dict[Metric, list[float]]]:
            return {
                f"case-{case}": {
                    metric: [min(1.0, dice.gauss(0.85, 0.05)) for _ in range(3)]
                    for metric in (Metric.COVERAGE, Metric.FAITHFULNESS)
                }
                for case in range(12)
            }

        runs = [night() for _ in range(21)]
        alarms = sum(any(change.worse for change in compare(now, before)) for before, now in itertools.pairwise(runs))
        assert alarms <= 2, alarms


class TestReport:
    def test_cases_and_means(self) -> None:
        samples = [sample("a", 1, coverage=0.5), sample("a", 2), sample("b", 1), sample("b", 2)]
        reports = [report_case("a", samples[:2]), report_case("b", samples[2:])]
        assert reports[0].scores[Metric.COVERAGE].mean == 0.75
        assert (reports[0].passed.mean, reports[0].passed.n) == (0.5, 2)
        assert reports[0].faults == ("something",)
        assert (reports[0].calls, str(reports[0].cost_usd)) == (6, "0.04")
        assert overall(reports)[Metric.COVERAGE].mean == 0.875
        assert overall(reports)[Metric.STABILITY].mean == 1

    def test_one_sample_has_no_stability(self) -> None:
        assert Metric.STABILITY not in values_of([sample()])
        assert Metric.STABILITY not in overall([report_case("a", [sample()])])

    def test_floors(self) -> None:
        cases = [report_case("a", [sample("a", coverage=0.2)]), report_case("b", [sample("b", coverage=0.7)])]
        (fault,) = floor_faults(overall(cases), cases, extractive=True)
        assert (fault.metric, fault.cases) == (Metric.COVERAGE, ("a",))
        assert fault.mean == pytest.approx(0.45)

    def test_extracts_have_to_be_faithful(self) -> None:
        cases = [report_case("a", [sample("a", faithfulness=0.9)])]
        assert floor_faults(overall(cases), cases, extractive=True)[0].metric is Metric.FAITHFULNESS
        assert not floor_faults(overall(cases), cases, extractive=False)
        assert floor_of(Metric.FAITHFULNESS, extractive=True) > floor_of(Metric.FAITHFULNESS, extractive=False)

    def test_exactly_at_the_floor_is_good(self) -> None:
        cases = [report_case("a", [sample("a", coverage=floor_of(Metric.COVERAGE, extractive=False))])]
        assert not floor_faults(overall(cases), cases, extractive=False)

    @pytest.mark.parametrize(
        ("now", "before", "verdict"),
        [
            (1.0, None, Verdict.GOOD),
            (1.0, 1.0, Verdict.GOOD),
            (0.7, 1.0, Verdict.REGRESSED),
            (0.2, 1.0, Verdict.REGRESSED),
            (0.2, None, Verdict.BELOW_FLOOR),
            (0.2, 0.2, Verdict.BELOW_FLOOR),
        ],
    )
    def test_verdicts(self, now: float, before: float | None, verdict: Verdict) -> None:
        report = make_report(facts(), [sample(coverage=now)], [] if before is None else [sample(coverage=before)])
        assert report.verdict is verdict
        assert judge(report.changes, report.floors) is verdict
        reason = explain(report.changes, report.floors)
        assert bool(reason) == (verdict is not Verdict.GOOD)
        if reason:
            assert "coverage" in reason
            assert "a" in reason.split()[-1] or "of a fell" in reason

    def test_the_same_samples_the_same_report(self) -> None:
        samples = [sample("a", number, coverage=0.5 + number / 10) for number in (1, 2, 3)]
        assert make_report(facts(), samples, samples) == make_report(facts(), list(reversed(samples)), samples)

    def test_a_long_list_of_reasons_is_cut(self) -> None:
        names = [f"case-{number}" for number in range(20)]
        before, now = {name: values(coverage=[1.0]) for name in names}, {name: values(coverage=[0.0]) for name in names}
        reason = explain(compare(now, before), ())
        assert reason.startswith("coverage of all cases fell from 1.000 to 0.000 (most in case-0")
        assert reason.endswith("and 13 more")

    def test_without_samples_there_is_no_report(self) -> None:
        with pytest.raises(ValueError, match="no samples"):
            make_report(facts(), [], [])
