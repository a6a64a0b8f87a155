"""The published tables of IEMOCAP, and a tree of small files that has their numbers."""

from collections import Counter, defaultdict
from itertools import chain, repeat

# The published tables, typed from EmoBox metadata and EMO-SUPERB label files.
ALL_CODES = {
    **{"xxx": 2507, "fru": 1849, "neu": 1708, "ang": 1103, "sad": 1084, "exc": 1041, "hap": 595},
    **{"sur": 107, "fea": 40, "oth": 3, "dis": 2},
}
PER_SPEAKER = {  # ang, hap, exc, sad, neu, all labels
    "01F": (147, 69, 63, 78, 171, 873),
    "01M": (82, 66, 80, 116, 213, 946),
    "02F": (67, 70, 96, 113, 135, 859),
    "02M": (70, 47, 114, 84, 227, 952),
    "03F": (92, 80, 48, 172, 130, 1048),
    "03M": (148, 55, 103, 133, 190, 1088),
    "04F": (205, 31, 154, 62, 76, 987),
    "04M": (122, 34, 84, 81, 182, 1116),
    "05F": (78, 77, 82, 132, 221, 1033),
    "05M": (92, 66, 217, 113, 163, 1137),
}
PER_SESSION_4 = {"01": 1085, "02": 1023, "03": 1151, "04": 1031, "05": 1241}
PER_SESSION_ALL = {"01": 1819, "02": 1811, "03": 2136, "04": 2103, "05": 2170}
IMPROVISED = {"angry": 289, "happy": 284, "excited": 663, "sad": 608, "neutral": 1099}
SCRIPTED = {"angry": 814, "happy": 311, "excited": 378, "sad": 476, "neutral": 609}
IMPROVISED_PER_SESSION = {"01": 521, "02": 530, "03": 627, "04": 534, "05": 731}
IRREGULAR = {
    "Ses03M_impro05a": 60,
    "Ses03M_impro05b": 66,
    "Ses03M_impro08a": 64,
    "Ses03M_impro08b": 48,
    "Ses05M_script01_1b": 81,
}
CODES = ("ang", "hap", "exc", "sad", "neu")
FOUR = {"angry", "happy", "excited", "sad", "neutral"}

# Filler: how many turns of each label are improvised in each session is not published, only the sums of both ways.
IMPROVISED_CELLS = {
    "01": (37, 64, 91, 107, 222),
    "02": (35, 54, 99, 110, 232),
    "03": (63, 65, 97, 172, 230),
    "04": (102, 32, 152, 81, 167),
    "05": (52, 69, 224, 138, 248),
}


def published_turns():
    """Dialogs with their turns and labels, so that every published table comes out.

    Filler: which turn of a cell is in which dialog, the numbers of the regular dialogs, and how the labels other
    than the five are spread over the speakers.
    """
    others = chain.from_iterable(repeat(code, ALL_CODES[code]) for code in ("xxx", "fru", "sur", "fea", "oth", "dis"))
    left = {session: list(cells) for session, cells in IMPROVISED_CELLS.items()}
    groups = defaultdict(list)
    of_five = of_others = 0
    for speaker, (*numbers, total) in PER_SPEAKER.items():
        session, gender = speaker[:2], speaker[2]
        for index, (code, number) in enumerate(zip(CODES, numbers, strict=True)):
            for turn in range(number):
                # 2,750 of these 5,531 turns are spoken by the partner of the one who wears the markers.
                crossed = (of_five + 1) * 2750 // 5531 > of_five * 2750 // 5531
                of_five += 1
                improvised = turn < left[session][index]
                letter = {"F": "M", "M": "F"}[gender] if crossed else gender
                groups[session, letter, improvised].append((gender, code))
            left[session][index] -= min(number, left[session][index])
        for _ in range(total - sum(numbers)):
            improvised = (of_others + 1) * 1841 // 4508 > of_others * 1841 // 4508
            of_others += 1
            groups[session, gender, improvised].append((gender, next(others)))
    dialogs = {}
    for (session, letter, improvised), group in sorted(groups.items()):
        turns = list(group)
        prefix = f"Ses{session}{letter}_{'impro' if improvised else 'script'}"
        for name, number in IRREGULAR.items():
            if name.startswith(prefix):
                dialogs[name] = turns[:number]
                del turns[:number]
        for count, start in enumerate(range(0, len(turns), 70)):
            number = f"{count + 1:02d}" if improvised else f"{count // 3 + 1:02d}_{count % 3 + 1}"
            dialogs[prefix + number] = turns[start : start + 70]
    return {dialog: number_turns(dialog, turns) for dialog, turns in dialogs.items()}


def number_turns(dialog, turns):
    counts = Counter()
    named = []
    for gender, code in turns:
        named.append((f"{dialog}_{gender}{counts[gender]:03d}", code))
        counts[gender] += 1
    return named


def block(turn, code="neu", raters=("Neutral", "Neutral", "Neutral"), start=6.2901, vad="2.5000, 3.0000, 3.5000"):
    lines = [f"[{start:.4f} - {start + 2:.4f}]\t{turn}\t{code}\t[{vad}]"]
    lines += [f"C-E{number}:\t{chosen};\t()" for number, chosen in enumerate(raters, start=2)]
    lines += ["C-F1:\tAnger;\t(curious)", "A-E3:\tval 3; act 2; dom  2;\t()", "A-F1:\tval 3; act 2; dom  ;\t()"]
    return "\n".join(lines) + "\n\n"


HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"


def write(path, data):
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def write_dialog(session, dialog, turns, suffix=".wav"):
    """The files of one dialog below the folder of its session."""
    write(session / f"dialog/EmoEvaluation/{dialog}.txt", HEADER + "".join(block(*turn) for turn in turns))
    spoken = "".join(f"{turn} [006.2901-008.2357]: Excuse me.\n" for turn, *_ in turns)
    write(session / f"dialog/transcriptions/{dialog}.txt", spoken + f"{dialog}_MXX0 [001.0-002.0]: Mm.\nM: sorry\n")
    write(session / f"dialog/wav/{dialog}.wav", dialog)
    for turn, *_ in turns:
        write(session / f"sentences/wav/{dialog}/{turn}{suffix}", turn)
