"""The corpora that `ser` reads by name: one file each, one line each in the registry below."""

from ser_cli.corpora import (
    crema_d,
    demo,
    emodb,
    esd,
    iemocap,
    meld,
    msp_improv,
    msp_podcast,
    ravdess,
    savee,
    tess,
)
from ser_cli.corpora.corpus import Corpus, ExpectedCounts, LabelSet, Listing
from ser_cli.errors import UnknownNameError

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        iemocap.CORPUS,
        msp_improv.CORPUS,
        ravdess.CORPUS,
        savee.CORPUS,
        msp_podcast.CORPUS,
        crema_d.CORPUS,
        emodb.CORPUS,
        tess.CORPUS,
        esd.CORPUS,
        meld.CORPUS,
        demo.CORPUS,
    )
}

__all__ = ["CORPORA", "Corpus", "ExpectedCounts", "LabelSet", "Listing", "find_corpus"]


def find_corpus(name: str) -> Corpus:
    """The corpus of a name.

    Raises:
        UnknownNameError: no reader has that name.
    """
    if name not in CORPORA:
        raise UnknownNameError("dataset", name, CORPORA, "your own recordings: ser prepare --manifest FILE.csv")
    return CORPORA[name]
