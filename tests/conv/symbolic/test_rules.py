"""One line for every rule: a network before it, and after all of them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from einfx.conv.symbolic.network import Constant, Network, network
from einfx.conv.symbolic.rules import ALL, DEFAULT
from einfx.conv.symbolic.simplify import simplified
from einfx.conv.symbolic.views import View
from einfx.pattern import IndexPattern


def conv(pattern: IndexPattern, output: str = "do", extra: str = "") -> Network:
    """``x[c,i] P[k,o,i] w[d,c,k]``, summed to ``output``."""
    k, _, i = pattern.shape
    sizes = {"c": 3, "i": i}
    x = View(0, tuple(sizes[label] for label in "ci"))
    return network(["ci", "koi", "dck"], output + extra, x, pattern, View(1, (4, 3, k)))


def shown(made: Network) -> str:
    """A network as text, with the names of steps shortened."""
    text = str(made)
    for word in ("dim=", "sizes=", "start=", "length=", "step=", "count=", "stride=", "size=", "dilation="):
        if word not in ("stride=", "dilation="):
            text = text.replace(word, "")
    return text.replace("tensor 0 of (3, ", "x(3, ").replace("tensor 1 of ", "w")


FORWARD = {
    "an ordinary convolution stays": (
        IndexPattern(8, 3, padding=1),
        "ab,cdb,eac->ed (x(3, 8), IndexPattern(8, 3, padding=1), w(4, 3, 3)) -> (4, 8)",
    ),
    "a kernel of one element": (
        IndexPattern(8, 1),
        "ab,ca->cb (x(3, 8), w(4, 3, 1).Squeeze(2)) -> (4, 8)",
    ),
    "down-sampling by a kernel of one element": (
        IndexPattern(8, 1, stride=3),
        "ab,ca->cb (x(3, 8).Slice(1, 0, 3, 3), w(4, 3, 1).Squeeze(2)) -> (4, 3)",
    ),
    "a kernel of one element, whatever its dilation": (
        IndexPattern(8, 1, dilation=5),
        "ab,ca->cb (x(3, 8), w(4, 3, 1).Squeeze(2)) -> (4, 8)",
    ),
    "a dense convolution": (
        IndexPattern(8, 2, stride=2),
        "abc,dac->db (x(3, 8).Split(1, (4, 2)), w(4, 3, 2)) -> (4, 4)",
    ),
    "a dense convolution that leaves a rest": (
        IndexPattern(9, 2, stride=2),
        "abc,dac->db (x(3, 9).Slice(1, 0, 8, 1).Split(1, (4, 2)), w(4, 3, 2)) -> (4, 4)",
    ),
    "down-sampling": (
        IndexPattern(9, 2, stride=3),
        "abc,dac->db (x(3, 9).Window(1, 3, stride=3, 2, dilation=1), w(4, 3, 2)) -> (4, 3)",
    ),
    "down-sampling whose last window is cut short": (
        IndexPattern(8, 2, stride=3),
        "abc,dac->db (x(3, 8).Window(1, 3, stride=3, 2, dilation=1), w(4, 3, 2)) -> (4, 3)",
    ),
    "a kernel over the whole input": (
        IndexPattern(4, 4),
        "a,ba->b (x(3, 4).Merge(0), w(4, 3, 4).Merge(1)) -> (4,)",
    ),
    "a dilation that is the number of outputs": (
        IndexPattern(8, 2, dilation=4),
        "ab,ca->cb (x(3, 8).Split(1, (2, 4)).Merge(0), w(4, 3, 2).Merge(1)) -> (4, 4)",
    ),
    "a common step of stride and dilation": (
        IndexPattern(9, 3, stride=2, dilation=2, padding=2),
        "ab,cdb,eac->ed (x(3, 9).Slice(1, 0, 5, 2), IndexPattern(5, 3, padding=1), w(4, 3, 3)) -> (4, 5)",
    ),
    "positions of the kernel that meet padding alone": (
        IndexPattern(1, 3, padding=1),
        "a,ba->b (x(3, 1).Squeeze(1), w(4, 3, 3).Slice(2, 1, 1, 1).Squeeze(2)) -> (4,)",
    ),
    "cropping": (
        IndexPattern(8, 1, padding=(-2, -1)),
        "ab,ca->cb (x(3, 8).Slice(1, 2, 5, 1), w(4, 3, 1).Squeeze(2)) -> (4, 5)",
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str) -> None:
    pattern, expected = FORWARD[name]
    assert shown(simplified(conv(pattern))) == expected


ANY = {
    "an input gradient of a dense convolution": (
        network(["do", "koi", "dck"], "ci", View(0, (4, 4)), IndexPattern(8, 2, 2), View(1, (4, 3, 2))),
        "ab,acd->cbd (tensor 0 of (4, 4), w(4, 3, 2)) -> (3, 4, 2)",
    ),
    "an input gradient that leaves a rest keeps its pattern": (
        network(["do", "koi", "dck"], "ci", View(0, (4, 4)), IndexPattern(9, 2, 2), View(1, (4, 3, 2))),
        "ab,cbd,aec->ed (tensor 0 of (4, 4), IndexPattern(9, 2, stride=2), w(4, 3, 2)) -> (3, 9)",
    ),
    "a pattern twice": (
        network(
            ["i", "koi", "koi"], "ko", View(0, (8,)), IndexPattern(8, 3), IndexPattern(8, 3, padding="valid")
        ),
        "a,bca->bc (tensor 0 of (8,), IndexPattern(8, 3)) -> (3, 6)",
    ),
    "an input that nothing else reads": (
        network(["koi", "ko"], "k", IndexPattern(8, 3), View(0, (3, 6))),
        "ab->a (x(3, 6)) -> (3,)",
    ),
    "a pattern that is summed altogether is a number": (
        network(["koi", "a"], "a", IndexPattern(8, 3), View(0, (5,))),
        "a,-> a (tensor 0 of (5,), 18) -> (5,)".replace("-> a", "->a"),
    ),
    "a delta that the output has both labels of stays": (
        network(["zij", "j"], "ij", IndexPattern(5, 1), View(0, (5,))),
        "abc,b->bc (IndexPattern(5, 1), tensor 0 of (5,)) -> (5, 5)",
    ),
    "a delta that nothing else meets is its number of ones": (
        network(["zij", "a"], "a", IndexPattern(5, 1), View(0, (3,))),
        "a,->a (tensor 0 of (3,), 5) -> (3,)",
    ),
    "numbers are multiplied": (
        network(["zij", "a", ""], "a", IndexPattern(5, 1), View(0, (3,)), Constant(0.5)),
        "a,->a (tensor 0 of (3,), 2.5) -> (3,)",
    ),
    "a cropped pattern": (
        network(
            ["i", "zpi", "kop", "k"],
            "o",
            View(0, (9,)),
            IndexPattern(9, 1, padding=(-2, 0)),
            IndexPattern(7, 3),
            View(1, (3,)),
        ),
        "a,bca,b->c (tensor 0 of (9,).Slice(0, 2, 7, 1), IndexPattern(7, 3), w(3,)) -> (5,)",
    ),
    "every other output of a pattern": (
        network(
            ["i", "kpi", "zop", "k"],
            "o",
            View(0, (9,)),
            IndexPattern(9, 3),
            IndexPattern(7, 1, stride=2),
            View(1, (3,)),
        ),
        "a,bca,b->c (tensor 0 of (9,), IndexPattern(9, 3, stride=2), w(3,)) -> (4,)",
    ),
    "labels that stand together are one": (
        network(["cxy", "dc"], "dxy", View(0, (3, 4, 5)), View(1, (6, 3))),
        "ab,ca->cb (tensor 0 of (3, 4, 5).Merge(1), w(6, 3)) -> (6, 20)".replace(
            "tensor 0 of (3, 4", "x(3, 4"
        ),
    ),
    "labels that would have to be copied aren't merged": (
        network(
            ["cx", "cy", "zxi", "wyj"],
            "cxy",
            View(0, (3, 4)),
            View(1, (3, 5)),
            IndexPattern(9, 1, padding=(0, -5)),
            IndexPattern(5, 1),
        ),
        "ab,ac->abc (x(3, 4), w(3, 5)) -> (3, 4, 5)",
    ),
    "a size of 1 that would be broadcast": (
        network(["ab", "b"], "ab", View(0, (3, 1)), View(1, (4,))),
        "a,b->ab (x(3, 1).Squeeze(1), w(4,)) -> (3, 4)",
    ),
}


@pytest.mark.parametrize("name", ANY)
def test_other_networks(name: str) -> None:
    made, expected = ANY[name]
    assert shown(simplified(made)) == expected


FORMS = {
    "a weight gradient is a convolution by the vector": (
        network(["ci", "koi", "do"], "dck", View(0, (3, 8)), IndexPattern(8, 3, 2), View(1, (4, 3))),
        "ab,cdb,ec->ead (x(3, 8), IndexPattern(8, 3, padding=(0, -1), dilation=2), w(4, 3)) -> (4, 3, 3)",
    ),
    "a transposed convolution is a convolution by the reversed kernel": (
        network(["co", "koi", "cdk"], "di", View(0, (3, 6)), IndexPattern(8, 3), View(1, (3, 4, 3))),
        "ab,cdb,aec->ed (x(3, 6), IndexPattern(6, 3, padding=2), w(3, 4, 3).Flip(2)) -> (4, 8)",
    ),
    "a dilated convolution is one of each phase": (
        conv(IndexPattern(8, 3, padding=2, dilation=2)),
        "abc,deb,fad->fec (x(3, 8).Split(1, (4, 2)), IndexPattern(4, 3, padding=1), w(4, 3, 3)) -> (4, 4, 2)",
    ),
    "phases that don't come out even stay": (
        conv(IndexPattern(9, 3, padding=2, dilation=2)),
        "ab,cdb,eac->ed (x(3, 9), IndexPattern(9, 3, padding=2, dilation=2), w(4, 3, 3)) -> (4, 9)",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_are_made_on_request(name: str) -> None:
    made, expected = FORMS[name]
    assert shown(simplified(made)) == shown(simplified(simplified(made)))
    assert shown(simplified(made, ALL)) == expected


def test_the_order_of_the_rules_is_one_list() -> None:
    assert len(set(ALL)) == len(ALL)
    assert all(ALL.index(a) < ALL.index(b) for a, b in pairwise(DEFAULT))
