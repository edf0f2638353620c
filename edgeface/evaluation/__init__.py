"""How well a model tells people apart, on photos that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeface.data.dataset import FaceData
from edgeface.evaluation.groups import GroupRates
from edgeface.evaluation.identification import Answers, Identification, answers, figures, identify
from edgeface.evaluation.open_set import OpenSet
from edgeface.evaluation.protocol import Protocol, YawRates
from edgeface.evaluation.verification import Pairs, Verification, all_pairs, pair_photos, verify
from edgeface_runtime import UsageError

if TYPE_CHECKING:
    from edgeface.heads import ClassCentres


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What ``edgeface eval`` gives; a part that was not measured is None."""

    identification: Identification | None = None
    verification: Verification | None = None
    answers: Answers | None = None
    """Behind ``identification``: one for each test photo, in the order of the data's rows."""
    pairs: Pairs | None = None
    """Behind ``verification``."""
    people: tuple[str, ...] = ()
    """Names by number in ``pairs``."""
    groups: tuple[GroupRates, ...] = ()
    open_set: OpenSet | None = None
    by_yaw: tuple[YawRates, ...] = ()
    """Of ``verification``'s pairs, where their faces were found in photos."""
    cfp: dict[str, Protocol] | None = None
    """CFP's protocols, ``frontal-frontal`` and ``frontal-profile``."""

    def as_json(self) -> dict[str, object]:
        """The objects of ``eval --json``."""
        return {
            "identification": asdict(self.identification) if self.identification else None,
            "verification": self.verification.as_json() if self.verification else None,
            "groups": [asdict(row) for row in self.groups],
            "open_set": self.open_set.as_json() if self.open_set else None,
            "by_yaw": [asdict(row) for row in self.by_yaw],
            "cfp": {
                name: {**each.verification.as_json(), "by_yaw": [asdict(row) for row in each.by_yaw]}
                for name, each in self.cfp.items()
            }
            if self.cfp
            else None,
        }

    def rows(self) -> list[tuple[str, str]]:
        """(figure, value) lines for a person."""
        rows: list[tuple[str, str]] = []
        if found := self.identification:
            rows.append(("identification", f"{found.method}, {found.photos} photos of {found.identities} people"))
            named = ("accuracy", "precision", "recall", "f1")
            rows.extend((f"  {name}", f"{100 * getattr(found, name):.2f} %") for name in named)
            if found.loss is not None:
                rows.append(("  loss", f"{found.loss:.4f}"))
        if self.verification:
            rows += verification_rows("verification", self.verification, self.by_yaw)
        for name, protocol in (self.cfp or {}).items():
            rows += verification_rows(f"CFP {name}", protocol.verification, protocol.by_yaw)
        for group in self.groups:
            fnmr, fmr = ("no pair" if rate is None else f"{100 * rate:.2f} %" for rate in (group.fnmr, group.fmr))
            rows.append((f"group {group.group}", f"{group.people} people"))
            rows.append(("  false-non-match rate", f"{fnmr} of {group.genuine} pairs"))
            rows.append(("  false-match rate", f"{fmr} of {group.impostor} pairs"))
        return rows


def verification_rows(name: str, of: Verification, by_yaw: Sequence[YawRates] = ()) -> list[tuple[str, str]]:
    """(figure, value) lines of verification figures under a name, and of their error rates by yaw."""
    spread = "" if of.standard_error is None else f" ± {100 * of.standard_error:.2f}"
    rows = [
        (name, f"{of.pairs} pairs" + (f", {of.failed} failed" if of.failed else "")),
        ("  accuracy", f"{100 * of.accuracy:.2f}{spread} % at threshold {of.threshold:.3f}"),
        ("  threshold from", of.threshold_from),
        ("  AUC, EER", f"{of.auc:.5f}, {100 * of.eer:.2f} %"),
    ]
    rows += [(f"  1 − FNMR at FMR {far}", str(tar)) for far, tar in of.tar_at_far.items()]
    for row in by_yaw:
        if row.genuine or row.impostor:
            fnmr, fmr = ("–" if rate is None else f"{100 * rate:.2f} %" for rate in (row.fnmr, row.fmr))
            rows.append(
                (f"  head turned {row.degrees}°", f"FNMR {fnmr} of {row.genuine}, FMR {fmr} of {row.impostor} pairs")
            )
    return rows


def evaluate(
    embeddings: NDArray[np.float32],
    data: FaceData,
    *,
    method: str = "centroid",
    head: ClassCentres | None = None,
) -> Evaluation:
    """Identification of the test photos, and verification over all pairs of them, or of ``pair_photos`` of them.

    Identification is None where all people of the test photos are strangers (a split by identities).
    Verification is None where the held-out pairs are all of one person, or all of two.

    Args:
        embeddings: (N, D) float32 unit rows of ``data.faces``.
        data: whose ``test`` rows are held out; the others are the gallery.
        method: ``centroid`` or ``svc``, as ``identify`` has them, or ``head``.
        head: with ``head``: the trained head whose classes are the data's identities.

    Raises:
        UsageError: no held-out photo, or a method that does not fit.
    """
    gallery, probes = data.rows("train", "val"), data.rows("test")
    known, truth = data.labels[gallery], data.labels[probes]
    given, found = None, None
    if head is not None:
        given, loss = _by_head(head, embeddings[probes], truth)
        found = figures(given, loss=loss)
    elif not len(probes) or np.isin(truth, known).any():
        given = identify(embeddings[gallery], known, embeddings[probes], truth, method=method)
        found = figures(given)
    compared = pair_photos(truth)
    pairs = all_pairs(embeddings[probes][compared], truth[compared])
    return Evaluation(
        identification=found,
        verification=verify(pairs) if pairs.has_both_kinds else None,
        answers=given,
        pairs=pairs if pairs.has_both_kinds else None,
        people=tuple(data.identities[label] for label in np.unique(truth[compared])),
    )


def _by_head(
    head: ClassCentres, probe_ND: NDArray[np.float32], truth: NDArray[np.int64]
) -> tuple[Answers, float | None]:
    """Answers by the cosine to the head's class centres, and the loss with its full margin."""
    import torch
    from torch.nn.functional import cross_entropy

    from edgeface.heads import Softmax

    if not len(probe_ND):
        raise UsageError("identification needs held-out photos; there are none")
    rows, labels = torch.from_numpy(probe_ND), torch.from_numpy(truth)
    with torch.no_grad():
        scores = head.cosines(rows).numpy()
        # A plain softmax looks at the length of an embedding too, and that is gone.
        loss = None if isinstance(head, Softmax) else float(cross_entropy(head(rows, labels), labels))
    return answers("head", np.arange(scores.shape[1]), scores, truth), loss
