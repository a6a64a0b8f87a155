"""How long the clips of two corpora are, in samples at 16 kHz."""

from statistics import NormalDist

import numpy as np

_RAVDESS = {
    # samples: clips; counted over the 1,440 speech clips of the published corpus
    46980: 1,
    47514: 1,
    48048: 1,
    48582: 2,
    49116: 10,
    49649: 1,
    49650: 6,
    50183: 10,
    50184: 9,
    50717: 12,
    51251: 22,
    51785: 32,
    52319: 24,
    52853: 34,
    53387: 32,
    53920: 14,
    53921: 18,
    54454: 28,
    54455: 9,
    54988: 50,
    55522: 61,
    56056: 66,
    56590: 67,
    57124: 68,
    57657: 15,
    57658: 52,
    58191: 33,
    58192: 29,
    58725: 60,
    59259: 56,
    59793: 81,
    60327: 51,
    60861: 49,
    61395: 50,
    61928: 20,
    61929: 23,
    62462: 19,
    62463: 8,
    62996: 27,
    63530: 34,
    64064: 27,
    64598: 20,
    65132: 20,
    65665: 4,
    65666: 26,
    66199: 11,
    66200: 12,
    66733: 15,
    67267: 16,
    67801: 11,
    68335: 11,
    68869: 10,
    69403: 6,
    69936: 5,
    69937: 6,
    70470: 6,
    70471: 3,
    71004: 3,
    71538: 6,
    72072: 3,
    72606: 3,
    73140: 3,
    73673: 2,
    73674: 4,
    74207: 2,
    74208: 2,
    74741: 2,
    75809: 3,
    76343: 4,
    76877: 2,
    77411: 1,
    77945: 1,
    78478: 1,
    79012: 1,
    80080: 1,
    81682: 1,
    84351: 1,
}


def ravdess_lengths() -> list[int]:
    """Of all 1,440 clips, the shortest first: 2.94 s to 5.27 s."""
    return [samples for samples, clips in _RAVDESS.items() for _ in range(clips)]


def iemocap_like_lengths() -> list[int]:
    """5,531 quantiles of a log-normal distribution fitted to what is published of IEMOCAP's four emotions.

    Median 3.6 s and mean 4.5 s = 3.6 exp(sigma^2 / 2) give sigma = 0.668, whose 95th percentile is 10.8 s (11.1 in
    IEMOCAP); cut at IEMOCAP's longest clip, 34.1 s, and at its shortest, 0.6 s. The shortest comes first.
    """
    sigma = np.sqrt(2 * np.log(4.5 / 3.6))
    quantiles = (np.arange(5531) + 0.5) / 5531
    draws_s = [3.6 * np.exp(sigma * NormalDist().inv_cdf(float(quantile))) for quantile in quantiles]
    return [round(16_000 * float(duration_s)) for duration_s in np.clip(draws_s, 0.6, 34.1)]
