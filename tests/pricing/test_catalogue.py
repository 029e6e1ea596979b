import ast
from pathlib import Path

import pytest

import pricing
from pricing.book_files import BookError
from pricing.catalogue import BOOKS_DIRECTORY, load_books
from pricing.plans import plans

MODULES = sorted(Path(pricing.__file__).parent.rglob("*.py"))


def test_every_plan_has_its_book(books):
    assert [books.price_book(plan.id).edition for plan in plans()] == [plan.book for plan in plans()]


def test_no_plan_is_charged_by_the_standard_book(books):
    assert books.price_book(None).edition == "standard-v1"


def test_three_price_books_and_the_costs_are_shipped(books):
    assert {edition: book.unit for edition, book in books.price_books.items()} == {
        "standard-v1": "USD",
        "flat-v1": "USD",
        "credits-v1": "credits",
    }
    assert books.cost_book.edition.startswith("costs-v1+genai-prices-")


@pytest.fixture
def folder(tmp_path):
    for path in BOOKS_DIRECTORY.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_problems_of_all_books_are_reported_together(folder):
    edit(folder / "flat-v1.toml", '"0.014"', '"0.014 USD"')
    edit(folder / "credits-v1.toml", "credits = 5", "credits = 2.5")
    (folder / "standard-v1.toml").unlink()
    with pytest.raises(BookError) as refusal:
        load_books(folder)
    assert {problem.partition(":")[0] for problem in refusal.value.problems} == {
        "flat-v1.toml",
        "credits-v1.toml",
        "plan none",
        "plan free-trial",
        "plan starter",
        "plan professional",
        "plan enterprise",
        "plan credits",
    }


def test_a_markup_on_costs_in_another_currency_is_refused(folder):
    edit(folder / "standard-v1.toml", 'unit = "USD"', 'unit = "EUR"')
    with pytest.raises(BookError, match="standard-v1: a markup needs costs in EUR, and they are in USD"):
        load_books(folder)


def test_a_cost_that_is_a_markup_is_refused(folder):
    edit(folder / "costs-v1.toml", 'kind = "flat"\nprice = "0"', 'kind = "markup"\npercent = "20"')
    with pytest.raises(BookError, match="a cost cannot be a markup on itself"):
        load_books(folder)


def test_there_must_be_costs(folder):
    (folder / "costs-v1.toml").unlink()
    with pytest.raises(BookError, match="no readable book is named costs"):
        load_books(folder)


def test_the_newest_version_of_the_costs_holds(folder):
    text = (folder / "costs-v1.toml").read_text(encoding="utf-8")
    (folder / "costs-v10.toml").write_text(text.replace("version = 1", "version = 10"), encoding="utf-8")
    assert load_books(folder).cost_book.version == 10


def test_no_module_names_a_provider_that_a_book_names(books):
    named = {price.source for price in books.cost_book.prices} - {None}
    assert len(named) == 3
    for path in MODULES:
        text = path.read_text(encoding="utf-8").lower()
        assert not [name for name in named if name in text], path


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_knows_a_float(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), node.lineno
        assert not (isinstance(node, ast.Name) and node.id == "float"), node.lineno
