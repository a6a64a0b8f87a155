"""What a study came to, for people: tables, sentences, a picture and pages."""

from collections import Counter
from collections.abc import Sequence

from ser_cli.ablation.grids import Component, GridCell
from ser_cli.ablation.nested import nested_section
from ser_cli.ablation.scores import TITLES, CellScores, StudyScores, score_study
from ser_cli.ablation.studies import STUDY_LOCK, Study
from ser_cli.errors import count_of
from ser_cli.evaluation.intervals import LEVEL, RESAMPLES
from ser_cli.evaluation.normalization import CAPTION, Normalization
from ser_cli.evaluation.pages import Picture, Report, Section
from ser_cli.evaluation.report_folder import write_files
from ser_cli.evaluation.sentences import changed_warnings, selection_told, told_of
from ser_cli.evaluation.tables import Column, Table, Value
from ser_cli.runs.locks import locked_folder
from ser_cli.tasks.outputs import TASKS

CHECK = "✓"


def rates_table(found: StudyScores) -> Table:
    """Check marks, ours and the paper's, a row per cell."""
    grid = found.study.grid
    columns = [Column("cell", "cell", "text"), Column("name", "name", "text")]
    columns += [
        Column(c.setting if c.value is None else f"{c.setting}={c.value}", c.title, "text") for c in grid.components
    ]
    columns.append(Column("folds", "folds", "text"))
    for rate in grid.rates:
        columns += [
            Column(rate, f"{TITLES[rate]} %"),
            Column(f"{rate}_std", "± std"),
            Column(f"{rate}_paper_percent", f"paper {TITLES[rate]} %", "text"),
        ]
    rows = []
    for entry in found.cells:
        marks: list[Value] = [
            str(entry.cell.setting(c.setting)) if c.shown else _mark(entry, c) for c in grid.components
        ]
        done = f"{len(entry.values)}/{entry.folds}" if entry.values else "not run"
        figures: list[Value] = []
        for rate in grid.rates:
            figures += [entry.mean(rate), entry.std(rate), entry.cell.paper[rate]]
        rows.append((str(entry.cell.number), entry.cell.name, *marks, done, *figures))
    seeds = sorted({run.seed for run in found.study.runs})
    over = f"folds and {count_of(len(seeds), 'seed')}" if len(seeds) > 1 else "folds"
    title = f"Mean and sample standard deviation over {over}{_normalized_caption(found)}"
    return Table("ablation", title, tuple(columns), tuple(rows))


def _mark(entry: CellScores, component: Component) -> str:
    """A check mark for what was trained; what was asked for and left out is told in its place."""
    if not entry.cell.has(component):
        return ""
    lacking, done = entry.lacking(component), len(entry.values)
    if not lacking:
        return CHECK
    return f"{CHECK} in {done - lacking} of {done}" if lacking < done else f"without {_task_of(component) or 'tasks'}"


def _task_of(component: Component) -> str:
    """The task that a component switches on; empty where it is none."""
    section, _, name = component.setting.partition(".")
    return name if section == "tasks" and name in TASKS else ""


def study_differences(found: StudyScores) -> Table:
    """Each cell against the reference, a row per cell."""
    grid = found.study.grid
    columns = [Column("cell", "cell", "text"), Column("name", "name", "text")]
    for rate in grid.rates:
        columns += [
            Column(f"{rate}_difference", TITLES[rate], "difference"),
            Column(f"{rate}_low", "from", "difference"),
            Column(f"{rate}_high", "to", "difference"),
            Column(f"{rate}_folds_won", "folds won", "text"),
        ]
    rows = []
    for entry in found.cells:
        figures: list[Value] = []
        for rate in grid.rates:
            d = entry.differences.get(rate)
            figures += (
                [d.value, d.interval.low, d.interval.high, f"{d.folds_won[1]} of {sum(d.folds_won)}"]
                if d
                else [None, None, None, "reference" if entry.cell is grid.reference else "no fold in both"]
            )
        rows.append((str(entry.cell.number), entry.cell.name, *figures))
    title = f"Difference to {grid.reference.name} in percentage points, pooled clips, with its 95 % interval"
    if len({run.seed for run in found.study.runs}) > 1:
        title += ", mean over the seeds"
    title += _normalized_caption(found)
    return Table("differences", title, tuple(columns), tuple(rows))


def study_sentences(found: StudyScores) -> list[str]:
    """What a reader of the tables has to know."""
    grid, study = found.study.grid, found.study
    kinds = sorted({entry.drawn for entry in found.cells if entry.drawn})
    drawn = " and ".join(kind.told for kind in kinds)
    few = any(kind.are_few for kind in kinds)
    sentences = [
        f"Grid {grid.name}: {grid.title}. Recipe {grid.recipe_name}, {study.plan.corpus.name}, protocol"
        f" {_protocols_told(study)}.",
        *_rules(found),
        *_selection(found, flattering=False),
        *([f"The paper's figures: {grid.source}."] if grid.source else []),
        *_normalization_sentences(found),
        *([f"Done so far: {_folds_done(found)}."] if _folds_done(found) else []),
        *(
            [f"Intervals: {100 * LEVEL:.0f} % paired percentile bootstrap, {RESAMPLES:,} resamples of {drawn}"
             f"{'; so few speakers make them rough' if few else ''}. One that holds 0 may well be chance."]
            if drawn else []
        ),
        *(f"Not in this grid: {sentence}" for sentence in grid.left_out),
    ]  # fmt: skip
    return sentences


def _protocols_told(study: Study) -> str:
    """The protocol, or that of each seed where seeds deal the folds."""
    told = {seed: f"{protocol.name} (hash {protocol.hash[:12]})" for seed, protocol in study.protocols.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{text} with seed {seed}" for seed, text in told.items())


def _rules(found: StudyScores) -> list[str]:
    """How the cells that are trained divide the corpus; before one is, how the reference would."""
    plan = found.study.plan
    each = [(str(entry.cell.number), scores.rule) for entry in found.cells for _, scores in entry.scores]
    each = each or [("", "; ".join([plan.protocol.rule, *plan.caveats]))]
    return told_of(((number, f"{rule[:1].upper()}{rule[1:]}.") for number, rule in each), "Cell ")


def _selection(found: StudyScores, *, flattering: bool) -> list[str]:
    """How the epochs of the cells were chosen; nothing before one is trained."""
    selected_by = ((str(e.cell.number), scores.selected_by) for e in found.cells for _, scores in e.scores)
    return selection_told(selected_by, "Cell ", flattering=flattering)


def _normalized_cells(found: StudyScores) -> list[GridCell]:
    """The cells whose figures rest on other clips of the tested speakers."""
    return [entry.cell for entry in found.cells if entry.cell.recipe.normalization.by == "speaker"]


def _normalization_sentences(found: StudyScores) -> list[str]:
    """How the cells that are normalised by speaker are, and how many tested speakers have one clip in any."""
    if not (normalized := _normalized_cells(found)):
        return []
    lone = [scores.normalization.lone_speakers for entry in found.cells for _, scores in entry.scores]
    told, *more = Normalization("speaker", max(lone, default=0)).sentences()
    if len(normalized) < len(found.cells):
        told = f"{_numbers(normalized).capitalize()}: {told[0].lower()}{told[1:]}"
    return [told, *more]


def _numbers(cells: Sequence[GridCell]) -> str:
    return f"cell {', '.join(str(cell.number) for cell in cells)}"


def _normalized_caption(found: StudyScores) -> str:
    """What stands behind the title of a table with rates."""
    normalized = _normalized_cells(found)
    which = "" if len(normalized) == len(found.cells) else f"{_numbers(normalized)} "
    return f"; {which}{CAPTION}" if normalized else ""


def _folds_done(found: StudyScores) -> str:
    """Which folds of which seeds are done in any cell; empty where all are."""
    done = sorted({fold for entry in found.cells for fold in entry.done})
    seeds = sorted({run.seed for run in found.study.runs})
    folds = len(found.study.plan.folds)
    if len(done) in (0, folds * len(seeds)):
        return ""
    told = []
    for seed in seeds:
        own = [str(fold) for its_seed, fold in done if its_seed == seed]
        of_seed = f" with seed {seed}" if len(seeds) > 1 else ""
        told.append(f"fold {', '.join(own) or 'none'} of {folds}{of_seed}")
    return "; ".join(told)


def study_warnings(found: StudyScores) -> list[str]:
    """What would mislead if it were not said."""
    warnings = _selection(found, flattering=True)
    for entry in found.cells:
        for run, scores in entry.scores:
            warnings += changed_warnings(f"{run.name[:1].upper()}{run.name[1:]}", scores.changes)
    normalized = _normalized_cells(found)
    if 0 < len(normalized) < len(found.cells):
        warnings.append(
            f"Normalised by speaker {'is' if len(normalized) == 1 else 'are'} {_numbers(normalized)} alone, which hears"
            f" tested clips against all unlabelled clips of their speaker. The other cells do not have this"
            f" information, so a difference to them is no merit of the model alone."
        )
    everything = {fold for entry in found.cells for fold in entry.done}
    behind = [entry for entry in found.cells if set(entry.done) != everything]
    if behind:
        told = ", ".join(
            f"{e.cell.number} ({len(e.done)} of {count_of(len(everything) or e.folds, 'fold')})" for e in behind
        )
        warnings.append(f"Not done yet: cell {told}; means over other folds or seeds cannot be compared.")
    warnings += [problem for entry in found.cells for problem in entry.problems]
    warnings += [sentence for entry in found.cells for sentence in _left_out_sentences(entry)]
    others = [run for run in found.study.runs if run.is_another_run]
    warnings += [f"{run.name} is left out: its folder holds another run." for run in others]
    return warnings


def _left_out_sentences(entry: CellScores) -> list[str]:
    """Which tasks a cell asks for and did not learn."""
    found = Counter((task, reason) for _, _, task, reason in entry.tasks_left_out)
    return [
        f"Cell {entry.cell.number} ({entry.cell.name}): task {task} is left out in {count} of"
        f" {count_of(len(entry.values), 'fold')}: {reason}."
        for (task, reason), count in found.items()
    ]


def write_study_report(study: Study) -> StudyScores:
    """Score a study and write its tables, its picture and its pages into its folder.

    Raises:
        RunError: the folder cannot be written to.
    """
    with locked_folder(study.folder, STUDY_LOCK):  # whoever comes last has seen what all others finished
        found = score_study(study)
        write_files(study.folder, describe_study(found), found.as_json())
    return found


def describe_study(found: StudyScores) -> Report:
    """Everything that is said of a study."""
    study = found.study
    pictures = (_picture(found),) if any(entry.values for entry in found.cells) else ()
    return Report(
        title=f"{study.grid.title} on {study.plan.corpus.name}",
        sentences=tuple(study_sentences(found)),
        warnings=tuple(study_warnings(found)),
        tiles=(),
        sections=(
            Section("Cells", "", pictures, (rates_table(found),)),
            Section("Differences", "", (), (study_differences(found),)),
            nested_section(found),
        ),
        facts=(
            ("grid hash", study.grid.hash),
            *(("protocol hash", told) for told in dict.fromkeys(p.hash for p in study.protocols.values())),
            ("folds hash", study.plan.identity.folds_hash),
            ("manifest hash", study.plan.identity.manifest_hash),
        ),
    )


def _picture(found: StudyScores) -> Picture:
    from ser_cli.figures import ablation as drawing
    from ser_cli.figures.style import as_png, as_svg, as_themed_svg

    rate = found.study.grid.rates[-1]
    rows = [
        drawing.Row(
            name=f"{entry.cell.number} {entry.cell.name}",
            values=[rates[rate] for _, _, rates in entry.values],
            mean=entry.mean(rate),
            paper=float(entry.cell.paper[rate]) / 100 if entry.cell.paper[rate] else None,
            difference=(d.value, d.interval.low, d.interval.high) if (d := entry.differences.get(rate)) else None,
        )
        for entry in found.cells
    ]
    figure = drawing.draw_ablation(rows, TITLES[rate], found.study.grid.reference.name)
    caption = (
        f"{TITLES[rate]}: small dots are folds, large ones their mean, diamonds the paper's figure on its own corpus;"
        f" right, the difference to {found.study.grid.reference.name} with its 95 % interval."
    )
    svg = as_svg(figure)
    return Picture("ablation", caption, svg, as_png(figure), as_themed_svg(svg))
