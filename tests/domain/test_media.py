"""Texts in pieces, and what they cost."""

from decimal import Decimal

import pytest

from domain.media import SpeechModel, pieces_of

TERMS = SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=1_000)


class TestPieces:
    def test_a_short_text_is_one(self) -> None:
        assert pieces_of(" One sentence. \n", longest=20) == ("One sentence.",)

    @pytest.mark.parametrize("text", ["", "  \n \n"])
    def test_no_text_is_none(self, text: str) -> None:
        assert pieces_of(text, longest=100) == ()

    def test_parted_between_paragraphs_first(self) -> None:
        """Although a sentence more would fit."""
        text = "A short one. And more.\n\nB is here. It goes on."
        assert pieces_of(text, longest=36) == ("A short one. And more.", "B is here. It goes on.")

    def test_then_at_the_ends_of_sentences(self) -> None:
        text = "First sentence here. Second sentence here! Third one? And the last."
        assert pieces_of(text, longest=45) == ("First sentence here. Second sentence here!", "Third one? And the last.")

    def test_as_many_paragraphs_in_a_piece_as_fit(self) -> None:
        assert pieces_of("One.\n\nTwo.\n\nThree.", longest=11) == ("One.\n\nTwo.", "Three.")

    def test_then_between_words(self) -> None:
        assert pieces_of("alpha beta gamma delta", longest=11) == ("alpha beta", "gamma delta")

    def test_a_longer_word_is_cut(self) -> None:
        assert pieces_of("x" * 25, longest=10) == ("x" * 10, "x" * 10, "x" * 5)

    @pytest.mark.parametrize("longest", [1, 7, 40, 100, 10_000])
    def test_nothing_is_lost_and_nothing_is_too_long(self, longest: int) -> None:
        text = "\n\n".join(f"Paragraph {number}. It says: «Привет», and goes on… Right?" for number in range(20))
        pieces = pieces_of(text, longest=longest)
        assert max(map(len, pieces)) <= longest
        assert "".join("".join(pieces).split()) == "".join(text.split())


class TestCost:
    def test_rounded_up(self) -> None:
        assert TERMS.cost_of(1_000) == Decimal("0.300000")
        assert TERMS.cost_of(1) == Decimal("0.000300")
        assert SpeechModel(usd_per_1000_characters=Decimal("0.0001"), max_characters=100).cost_of(1) == Decimal(
            "0.000001"
        )

    def test_half_a_character(self) -> None:
        """Some models bill less than they speak."""
        assert TERMS.cost_of(Decimal("0.5")) == Decimal("0.000150")
