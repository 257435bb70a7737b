"""What counts as a test that a model wrote."""

from rrk.sandbox.judge.snippets import asserts


def test_a_sample_continues_the_word_assert_and_ends_where_other_code_begins():
    sample = "f(1) == 2, 'one'\nassert f(2) == 3\n\ndef g():\n    assert f(9) == 9"
    assert asserts([sample], "f") == ["assert f(1) == 2", "assert f(2) == 3"]


def test_a_test_may_begin_on_the_line_after_assert():
    assert asserts(["\n    f([], 1) == False, 'empty'\nassert \n    f([1], 1) == True"], "f") == [
        "assert f([], 1) == False",
        "assert f([1], 1) == True",
    ]


def test_what_does_not_parse_or_call_the_function_is_dropped():
    assert asserts(["____ == 3", "f(1) ==", "f(", "g(1) == 2", "f(3) == 4"], "f") == ["assert f(3) == 4"]


def test_the_same_test_counts_once_and_a_sample_gives_at_most_five():
    many = "\nassert ".join(f"f({n}) == {n}" for n in range(9))
    assert len(asserts([many], "f")) == 5
    assert asserts(["f(1)==2", "f( 1 ) == 2, 'again'"], "f") == ["assert f(1) == 2"]
    assert len(asserts([many, "f(77) == 1"], "f", most=3)) == 3


def test_a_sample_that_says_assert_itself_is_read_as_it_is():
    assert asserts(["assert f(1) == 2\nassert f(2) == 3"], "f") == ["assert f(1) == 2", "assert f(2) == 3"]
