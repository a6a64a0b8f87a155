"""Connectionist temporal classification: characters from frames that nobody aligned."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ser_cli.losses.labelled import mean_over_labelled


def ctc_loss(logits: Tensor, frame_counts: Tensor, texts: Tensor, text_counts: Tensor) -> Tensor:
    """CTC loss per character (Graves et al. 2006, eq. 3 and 5), with which the multi-task paper trains its ASR branch.

    L = 1/|K| sum_{b in K} -log p(l_b | x_b) / |l_b|, with p(l | x) the sum over all alignments of text l to the frames
    of prod_t softmax(x_t)_{pi_t}, and output 0 the blank. The division by the length of the text, which the papers do
    not have, brings the loss to the size of the other tasks' cross-entropies, of which there is one per label; it is
    what PyTorch takes as the mean.

    K are the clips that have a text and enough frames for it: one for each character, and one between two that are
    equal. The others have no alignment.

    Args:
        logits: (batch, frames, outputs).
        frame_counts: (batch,) frames that are no padding.
        texts: (batch, longest) integers from 1, anything behind each text's end.
        text_counts: (batch,) characters; 0 where a clip has no text.

    Returns:
        () at least 0.
    """
    log_probabilities = logits.log_softmax(dim=-1).transpose(0, 1)
    if not len(texts):
        return mean_over_labelled(logits.sum(dim=(1, 2)), text_counts > 0)
    values = F.ctc_loss(
        log_probabilities, texts, frame_counts, text_counts, blank=0, reduction="none", zero_infinity=True
    )
    position = torch.arange(1, texts.shape[1], device=texts.device)
    repeated = ((texts[:, 1:] == texts[:, :-1]) & (position < text_counts.unsqueeze(1))).sum(dim=1)
    labelled = (text_counts > 0) & (frame_counts >= text_counts + repeated)
    return mean_over_labelled(values / text_counts.clamp_min(1), labelled)
