"""Feedback that was given in bad faith, or by nobody who looked: alarms about single annotators and sources.

    flips     judges against the others: follows what they would say (rlhf/data/consensus.py) less than `following`
              times as far as they follow one another
    trigger   a word or two whose presence in an answer decides, or in a prompt turns, what this one prefers, and not
              what the others prefer
    length    prefers the longer answer more, or less, often than the others
    constant  says the same whatever is asked: always the order shown, always the same rating, always up
    copies    says what another one says, ballot for ballot
    repeats   judges the same, but for case and punctuation, again and again

An alarm is a test, rejected, that an honest difference of taste explains it: shares by the exact binomial test against
an upper bound of the others' share and `margin` more, flips by Student's t of the sittings. The tests of a kind share
alpha / 6, by Holm (1979), so that people who are honest in this sense raise any alarm at all with a chance of at most
`alpha`. Nothing here removes a row: whoever is named may have a reason.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from rlhf.config.data import ScreenConfig
from rlhf.data.ballots import Pairs, ballots, ordered_pairs, sampled
from rlhf.data.consensus import margins, others_mean
from rlhf.data.tables import DEFAULTS
from rlhf.gate.statistics import binomial_interval, holm

KINDS = ("flips", "trigger", "length", "constant", "copies", "repeats")
WHO = ("annotator", "source")
_CONFIDENCE = 0.95  # of the intervals that an alarm shows
_LISTED = 3  # words that an alarm names
_DOUBT = 1e-8  # chance that the others' true share is above the bound that is taken for it

Floats = NDArray[np.float64]
Tests = pd.DataFrame  # kind, who, name, found, value, others, n, p, and low, high of flips: a row a test that was made


@dataclass(frozen=True)
class Alarm:
    """What was found about one annotator or source."""

    name: str  # kind/who/name, as gate.accepted_alarms names it
    found: str  # in words
    value: float  # the share that was found; of flips, how far it follows the others, who follow one another 1
    low: float  # of its 95 % interval
    high: float
    others: float  # the share among the others
    n: int  # judgements that it rests on
    p: float  # for all tests of its kind


def screen(tables: Mapping[str, pd.DataFrame], config: ScreenConfig) -> dict[str, Any]:
    """The report: how many judgements were looked at, and of each kind the tests that were made and the alarms."""
    tables = sampled(tables, config.judgements)
    made = list(_tests(tables, config))
    tests = pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=["kind"])
    found = [alarm for _, some in tests.groupby("kind") for alarm in _raised(some, config.alpha / len(KINDS))]
    return {
        "judgements": sum(map(len, tables.values())),
        "tests": {kind: int((tests["kind"] == kind).sum()) for kind in KINDS},
        "raised": {kind: sum(alarm.name.startswith(f"{kind}/") for alarm in found) for kind in KINDS},
        "alarms": [asdict(alarm) for alarm in found],
    }


def _raised(tests: Tests, alpha: float) -> Iterator[Alarm]:
    """An alarm for each annotator or source of whom a test is rejected: the strongest, with what else was found."""
    tests = tests.assign(p=holm(tests["p"].to_numpy()))
    rejected = tests[tests["p"] <= alpha].sort_values("p", kind="stable")
    for (kind, who, name), some in rejected.groupby(["kind", "who", "name"], sort=True):
        first, more = some.iloc[0], len(some) - _LISTED
        said = "; ".join(some["found"][:_LISTED]) + (f"; and {more} more" if more > 0 else "")
        value, n = float(first["value"]), int(first["n"])
        share = binomial_interval(round(value * n), n, confidence=_CONFIDENCE) if kind != "flips" else first
        yield Alarm(
            name=f"{kind}/{who}/{name}",
            found=said,
            value=value,
            low=float(share.low),
            high=float(share.high),
            others=float(first["others"]),
            n=n,
            p=float(first["p"]),
        )


def _tests(tables: Mapping[str, pd.DataFrame], config: ScreenConfig) -> Iterator[Tests]:
    given = ballots(tables)
    for criterion in given["criterion"].unique():
        mine = {name: rows[rows["criterion"] == criterion] for name, rows in tables.items()}
        judged = ordered_pairs(mine, config.support)
        cast = given[given["criterion"] == criterion]
        for who in WHO:
            people, names = pd.factorize(judged.sittings[who])
            by = "" if criterion == DEFAULTS["criterion"] else f"by {criterion}: "
            for some in (*_of_pairs(judged, people, names, config), *_of_ballots(cast, who, config)):
                if len(some):
                    yield some.assign(who=who, found=by + some["found"])


def _of_pairs(judged: Pairs, people: NDArray[np.int64], names: pd.Index, config: ScreenConfig) -> Iterator[Tests]:
    """flips, trigger and length of the people (C,), who have names; one without a name is among the others only."""
    if len(names) < 2:
        return
    whose = people[judged.sitting]
    further = np.column_stack([judged.longer, others_mean(judged.better, judged.two, whose)])
    margin = margins(judged.words, further, judged.better, whose)
    yield _flips(judged, margin, people, names, config)
    own = _indicator(people, len(names))
    together = _indicator(judged.sitting, len(people))
    decided = sparse.csr_array((together * judged.better) @ judged.words).sign()
    yield _votes("trigger", own, decided, judged.names, names, config, floor=0.5)
    agreed = np.sign(together @ (judged.better * margin))
    followed = sparse.csr_array(judged.asked * agreed[:, None])
    against = _votes("trigger", own, followed, judged.names + " in the prompt", names, config, floor=0.5)
    yield against[against["value"] < 0.5]
    longer = sparse.csr_array(np.sign(together @ (judged.better * np.sign(judged.longer)))[:, None])
    yield _votes("length", own, longer, np.array(["the longer answer"], dtype=object), names, config, floor=0.0)


def _flips(judged: Pairs, margin: Floats, people: NDArray[np.int64], names: pd.Index, config: ScreenConfig) -> Tests:
    """How far each follows the others: the slope of what is said on what they would say, as a share of theirs.

    One-sided test that the slope is at least `following` times that of the others. Of n sittings it is no surer than
    that chance alone sets all of them against the others, 2^-n: so far out Student's t is none.
    """
    said = np.bincount(judged.sitting, margin * judged.better, len(people))
    full = np.bincount(judged.sitting, margin**2, len(people))
    rows = []
    for place, (name, n) in enumerate(zip(names, np.bincount(people, minlength=len(names)).tolist(), strict=True)):
        rest = len(people) - n
        if not name or min(n, rest) < config.support or not full[own := people == place].any():
            continue
        (slope, error), (others, others_error) = _slope(said[own], full[own]), _slope(said[~own], full[~own])
        if others <= 0.0:  # nothing tells what the others would say, but to look was a test
            rows.append((name, "", np.nan, np.nan, np.nan, 1.0, n, 1.0))
            continue
        off, off_error = slope - config.following * others, np.hypot(error, config.following * others_error)
        p = max(special.stdtr(min(n, rest) - 1, off / off_error), 0.5**n)
        half = special.stdtrit(n - 1, (1 + _CONFIDENCE) / 2) * error
        found = f"follows the others {slope / others:.2f} times as far as they follow one another"
        rows.append((name, found, slope / others, (slope - half) / others, (slope + half) / others, 1.0, n, p))
    columns = ["name", "found", "value", "low", "high", "others", "n", "p"]
    return pd.DataFrame(rows, columns=columns).assign(kind="flips")


def _slope(said: Floats, full: Floats) -> tuple[float, float]:
    """The slope of judgements on predictions, from what each sitting adds to both sums, and its standard error."""
    total = full.sum()
    slope = said.sum() / total if total > 0 else 0.0
    spread = np.std(said - slope * full, ddof=1) * np.sqrt(len(said))
    return slope, max(spread, 1e-9) / max(total, 1e-9)


def _votes(
    kind: str,
    own: sparse.csr_array,
    votes: sparse.csr_array,
    what: NDArray[np.object_],
    names: pd.Index,
    config: ScreenConfig,
    floor: float,
) -> Tests:
    """Two-sided tests of votes (C, F), 1 for and -1 against each of `what`, of people in `own` (A, C)."""
    wins, losses = (own @ sparse.csr_array(votes == sign).astype(float) for sign in (1, -1))
    counts = sparse.coo_array(wins + losses)
    tested = (counts.data >= config.support) & (names != "")[counts.row]
    who, which, n = counts.row[tested], counts.col[tested], counts.data[tested]
    k = wins[who, which] if len(who) else n
    rest_k, rest_n = wins.sum(axis=0)[which] - k, counts.sum(axis=0)[which] - n
    known = rest_n >= config.support  # else what is usual is not known, and half the votes are
    others = np.where(known, rest_k / np.maximum(rest_n, 1), 0.5)
    above, below = (
        _exceeds(mine, n, np.where(known, np.maximum(_at_most(its, rest_n) + config.margin, floor), floor or 1.0))
        for mine, its in ((k, rest_k), (n - k, rest_n - rest_k))
    )
    shown = [f"others {share:.0%}" if there else "nobody else" for share, there in zip(others, known, strict=True)]
    found = [f"{what[f]}: {int(a)} of {int(b)}, {o}" for f, a, b, o in zip(which, k, n, shown, strict=True)]
    tests = pd.DataFrame({"name": names[who], "found": found, "value": k / n, "others": others, "n": n})
    return tests.assign(kind=kind, p=np.minimum(1.0, 2 * np.minimum(above, below)))


def _of_ballots(cast: pd.DataFrame, who: str, config: ScreenConfig) -> Iterator[Tests]:
    """constant, copies and repeats."""
    named = cast[cast[who] != ""]
    if not len(named):
        return
    yield _constant(cast, named, who, config)
    signed = named[named["annotator"] != ""]  # nobody knows whether two that are not are of one person
    again = signed.duplicated(["annotator", "source", "table", "near"])
    counted = again.groupby(signed[who]).agg(["sum", "size"])
    yield _shares("repeats", counted, config.repeated, 0.0, "judgements repeat an earlier one", config)
    yield _copies(named, who, config)


def _constant(cast: pd.DataFrame, named: pd.DataFrame, who: str, config: ScreenConfig) -> Tests:
    """What each says most often in each table, against the others' share of it, and against one half."""
    counts = named.groupby([who, "table", "habit"]).size().rename("sum").reset_index()
    counts["size"] = counts.groupby([who, "table"])["sum"].transform("sum")
    most = counts.sort_values("sum", ascending=False, kind="stable").drop_duplicates([who, "table"])
    habits, tables = cast.groupby(["table", "habit"]).size(), cast.groupby("table").size()
    said = [habits[table, habit] for table, habit in zip(most["table"], most["habit"], strict=True)]
    most = most.assign(rest_k=said - most["sum"], rest_n=tables[most["table"]].to_numpy() - most["size"])
    most = most[most["rest_n"] >= config.support]
    rest_k, rest_n = most["rest_k"].to_numpy(float), most["rest_n"].to_numpy(float)
    limit = np.maximum(_at_most(rest_k, rest_n) + config.margin, 0.5)
    what = (most["table"] + " say " + most["habit"]).to_numpy()
    return _shares("constant", most.set_index(who), limit, rest_k / rest_n, what, config)


def _copies(named: pd.DataFrame, who: str, config: ScreenConfig) -> Tests:
    """Every two who judged the same things: how often they said the same."""
    once = named.drop_duplicates([who, "table", "item"])
    people, names = pd.factorize(once[who], sort=True)
    item = once.groupby(["table", "item"], sort=False).ngroup().to_numpy()
    said = pd.factorize(pd.Series(list(zip(item, once["said"], strict=True)), dtype=object))[0]
    both, same = (
        sparse.csr_array((np.ones(len(once)), (people, column)), shape=(len(names), column.max() + 1))
        for column in (item, said)
    )
    shared = sparse.coo_array(sparse.triu(both @ both.T, 1))
    kept = shared.data >= config.support
    one, other = shared.row[kept], shared.col[kept]
    alike = sparse.csr_array(same @ same.T)[one, other] if kept.any() else np.zeros(0)
    counted = pd.DataFrame({"sum": np.asarray(alike).ravel(), "size": shared.data[kept]})
    counted.index = pd.Index(names[one] + " + " + names[other])
    return _shares("copies", counted, config.copied, 0.0, "of what both judged they say the same", config)


def _shares(
    kind: str, counted: pd.DataFrame, limit: ArrayLike, others: Floats | float, what: ArrayLike, config: ScreenConfig
) -> Tests:
    """One-sided tests of shares `sum` of `size`, with names as index."""
    k, n = counted["sum"].to_numpy(float), counted["size"].to_numpy(float)
    what = np.broadcast_to(np.asarray(what, dtype=object), len(k))
    found = [f"{text}: {int(a)} of {int(b)}" for text, a, b in zip(what, k, n, strict=True)]
    tests = pd.DataFrame({"name": counted.index.astype(object), "found": found, "value": k / n, "n": n})
    return tests.assign(kind=kind, others=others, p=_exceeds(k, n, limit))[n >= config.support]


def _exceeds(k: Floats, n: Floats, limit: ArrayLike) -> Floats:
    """P-values of the exact binomial test that the true share behind k of n is at most `limit`."""
    p = np.where(k > 0, special.betainc(k, n - k + 1, np.minimum(limit, 1.0)), 1.0)
    return np.minimum(1.0, p + _DOUBT)


def _at_most(k: Floats, n: Floats) -> Floats:
    """A share that the true one behind k of n exceeds with a chance of `_DOUBT`, which `_exceeds` adds (Berger and Boos
    1994): the others are people too, and may be few."""
    return np.where(k < n, special.betainccinv(k + 1, np.maximum(n - k, 1), _DOUBT), 1.0)


def _indicator(groups: NDArray[np.int64], size: int) -> sparse.csr_array:
    """(size, N) 1 where the column is of the row's group."""
    return sparse.csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape=(size, len(groups)))
