"""The terms of a report in plain words: shown on hover, and written out once on the page for everybody else."""

from __future__ import annotations

from markupsafe import Markup

WORDS = {
    "leakage": "Leakage: how well gender can still be read: the chance to tell a random woman\u2019s photo from a random man\u2019s (AUC). 0.5 is guessing, 1 is always right; a classifier that is always wrong counts as always right.",
    "probe": "Probe: a gender classifier used to test. One that cannot read originals (below 0.90) proves nothing and is marked not measurable.",
    "retrained": "Retrained: an attacker who trained on protected data of other people, as somebody who wants the gender would.",
    "frozen": "Frozen: a pretrained classifier, trained on originals and used as it is. Papers usually report this one.",
    "unseen": "Unseen: the protector was not trained against this model. Unseen figures say more about the real world.",
    "gap": "Illusion gap: worst retrained leakage minus worst frozen leakage: what a test with pretrained classifiers alone would have missed.",
    "draw": "Draw: one output of a randomised protection; another seed gives another one of the same photo.",
    "interval": "95 % interval: a range that would hold the true figure in about 95 of 100 audits of other people; a wide one means too little data.",
    "accuracy": "Balanced accuracy: share of right answers, women and men counted equally; 50 % is guessing.",
    "probe-eer": "EER of a probe: equal error rate; 50 % is guessing, well above 50 % means flipped answers, which also leak.",
    "modes": "O-O, P-P, P-O: two originals (the baseline); two stored protected photos; a protected photo in the gallery and a live original before the camera.",
    "tmr": "TMR at FMR 1 %: true match rate: share of genuine pairs (same person) accepted when 1 % of impostor pairs (different people) are wrongly accepted (false match rate). Higher is better.",
    "fnmr": "FNMR: false non-match rate: share of same-person pairs that are missed, 1 minus TMR. Lower is better.",
    "eer": "EER of a matcher: equal error rate: where impostor pairs are accepted as often as genuine pairs are rejected. Lower is better.",
    "auc": "AUC, d\u2032: how far apart same-person and stranger scores lie. Higher is better.",
    "fte": "FTE: failure to enrol: photos in which no face was found. They count as not recognised.",
    "psnr": "PSNR: peak signal-to-noise ratio in decibels; higher is closer to the original.",
    "ssim": "SSIM: structural similarity; 1 is the same picture. It says nothing about privacy.",
    "bits": "Bits: a lower bound of what a score tells about gender; 1 bit tells everything.",
    "bayes": "Bayes: the best that any reader could reach on a planted leak, known because we planted it.",
    "beaten": "Beaten: another method leaks no more and keeps no less.",
}
"""Term: how the page writes it, a colon, what it means."""


class Glossary:
    """Links terms of one page to their meaning, and remembers what is still to be explained."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}
        self._told: set[str] = set()

    def link(self, term: str, text: str | None = None) -> Markup:
        """A term with its meaning on hover; following it leads to the written meaning."""
        self._used[term] = None
        label = text or WORDS[term].partition(": ")[0]
        return Markup('<a class="word" href="#word-{}" title="{}">{}</a>').format(term, WORDS[term], label)

    def tell(self, *terms: str) -> list[tuple[str, ...]]:
        """Terms to write out here: key, name and meaning of those not yet written out on the page."""
        new = [term for term in terms if term not in self._told]
        self._told.update(new)
        return [(term, *WORDS[term].split(": ", 1)) for term in new]

    def rest(self) -> list[tuple[str, ...]]:
        """Terms that the page used and has not written out."""
        return self.tell(*self._used)
