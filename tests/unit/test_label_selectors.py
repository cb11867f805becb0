"""Label selectors: what they mean, against a plain reading of them, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from zray.handles.label_selectors import expressions, problem
from zray.handles.options import ActorOptions, TaskOptions
from zray.sched.policies.labels import satisfies

VALUES = ("a", "b", "v1.x", "in")


@st.composite
def conditions(draw):
    """(the text, whether it is negated, the values)"""
    negated = draw(st.booleans())
    several = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    one = draw(st.booleans())
    text = several[0] if one else f"in({draw(st.sampled_from((',', ', ')).map(lambda mark: mark.join(several)))})"
    return "!" * negated + text, negated, several[:1] if one else several


@given(st.dictionaries(st.sampled_from(("k", "x.io/k")), conditions()),
       st.dictionaries(st.sampled_from(("k", "x.io/k")), st.sampled_from(VALUES)))
def test_a_selector_means_what_it_says(selector, labels):
    texts = {key: text for key, (text, _, _) in selector.items()}
    assert problem(texts) is None
    wanted = all((labels.get(key) in values) != negated for key, (_, negated, values) in selector.items())
    assert satisfies(labels, expressions(texts)) == wanted


@pytest.mark.parametrize(("selector", "words"), [
    ({"a b!/c": "v"}, "Invalid label key prefix `a b!`"), ({"k/": "v"}, "Invalid label key name ``"),
    ({" k": "v"}, "Invalid label key name ` k`"), ({"k" * 64: "v"}, "at most 63"), ({"a/b/c": "v"}, "prefix `a/b`"),
    ({"k": "??"}, "Invalid label selector value `??`"),
    ({"k": "near(x)"}, "value `near"), ({"k": "in(a,, b)"}, "value `in"), ({"k": "in(a"}, "value `in"),
    ({"k": "in()"}, "value `in"), ({"k": "!"}, "value `!`"), ({"k": "!!v"}, "value `!!v`"), ({"k": "-v"}, "value `-v`"),
    ({"k": "v" * 64}, "at most 63"), ({"k": "in(!a)"}, "value `in"), ({1: "v"}, "Dict"),
    ({"k": 1}, "Dict")])
def test_what_is_no_selector_is_refused_at_decoration(selector, words):
    assert words in str(problem(selector))
    for options in (TaskOptions, ActorOptions):
        with pytest.raises(ValueError):
            options.build({"label_selector": selector})


def test_a_selector_is_a_dict_and_a_fallback_a_list_of_selectors():
    with pytest.raises(TypeError, match="label_selector"):
        TaskOptions.build({"label_selector": "k=v"})
    assert TaskOptions.build({"fallback_strategy": [{"label_selector": {"k": "v"}}]})
    for wrong in ([{"label_selector": {"k": "??"}}], [{"k": "v"}]):
        with pytest.raises(ValueError):
            TaskOptions.build({"fallback_strategy": wrong})
    assert problem({"ray.io/x": "v.v_v-v", "/x": "", "k": None}) is None
