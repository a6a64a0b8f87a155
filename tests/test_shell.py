"""The shell knows the tool: TAB in bash, zsh and fish, `man` in a new environment, and the README's batch jobs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ser_cli.commands import known_corpora
from ser_cli.reference import SHELLS, completion_scripts, manual_pages
from tests.conftest import TINY
from tests.test_documentation import README

ROOT = Path(__file__).parent.parent
COMPLETIONS = ROOT / "completions"
PATIENCE_S = 60

BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$(({count} - 1))
_ser_completion ser
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1="> "; fpath=({folder} $fpath); autoload -U compinit; compinit -u -D; bindkey "^I" complete-word'
zpty -w z 'unset zle_bracketed_paste; LISTMAX=0; echo REA''DY'
zpty -r -m z out '*READY*'
zpty -w -n z $'{line}\\t'
zpty -r -m z out '*{wanted}*' && print -r -- "$out"
zpty -d z
"""

RECIPES = sorted(path.stem for path in (ROOT / "ser_cli/recipes").glob("*.toml"))


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """`ser` of this checkout as a program of the shell; further programs may be put into the folder."""
    folder = tmp_path / "bin"
    write_program(folder / "ser", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ser_cli "$@"\n')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def bash_offers(*words: str) -> list[str]:
    """What TAB offers in bash after these words, the last of them being typed."""
    needs("bash")
    code = BASH.format(script=COMPLETIONS / "ser.bash", words=" ".join(map(shlex.quote, words)), count=len(words))
    result = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def fish_offers(line: str) -> dict[str, str]:
    """What TAB offers in fish after a line, with what it says of each."""
    needs("fish")
    code = f"source {COMPLETIONS / 'ser.fish'}; complete -C {shlex.quote(line)}"
    result = subprocess.run(
        ["fish", "--no-config", "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert result.stderr == ""
    return dict(offer.partition("\t")[::2] for offer in result.stdout.splitlines())


def prepare_marker(home: Path, name: str, *labels: str) -> None:
    """What a prepared corpus is known by."""
    folder = home / "corpora" / name
    folder.mkdir(parents=True)
    (folder / "prepared.json").write_text(json.dumps({"labels": labels}))


def make_run(folder: str, *folds: int) -> None:
    Path(folder).mkdir(parents=True)
    Path(folder, "run.json").write_text("{}")
    for fold in folds:
        Path(folder, f"fold-{fold}").mkdir()
        Path(folder, f"fold-{fold}", "model.json").write_text("{}")


def test_dataset_offers_what_is_prepared_and_what_renders_itself(on_path, home):
    assert bash_offers("ser", "train", "--dataset", "") == ["demo"]
    prepare_marker(home, "ravdess", "neutral", "happy")
    prepare_marker(home, "calls", "calm", "angry")
    (home / "corpora" / "half-prepared").mkdir()
    assert bash_offers("ser", "train", "--dataset", "") == ["calls", "demo", "ravdess"]
    assert bash_offers("ser", "train", "--dataset", "ra") == ["ravdess"]


def test_dataset_of_prepare_offers_every_known_corpus(on_path):
    from ser_cli.corpora import CORPORA

    assert set(bash_offers("ser", "prepare", "--dataset", "")) == set(CORPORA)


def test_labels_and_protocols_are_those_of_the_chosen_corpus(on_path, home):
    prepare_marker(home, "calls", "calm", "angry")
    assert bash_offers("ser", "train", "--dataset", "iemocap", "--labels", "4") == ["4", "4-no-excited"]
    assert bash_offers("ser", "train", "--dataset", "calls", "--labels", "") == ["calm,angry"]
    offered = bash_offers("ser", "train", "--dataset", "ravdess", "--protocol", "")
    assert offered == ["ravdess-6-emobox", "ravdess-6-balanced", "seeded", "seeded-sessions"]
    assert bash_offers("ser", "train", "--dataset", "calls", "--protocol", "") == ["seeded", "seeded-sessions"]


def test_recipes_and_encoders_are_offered_with_files(on_path):
    Path("mine.toml").write_text("")
    Path("recipes").mkdir()
    Path("recipes/yours.toml").write_text("")
    assert bash_offers("ser", "train", "--recipe", "") == [*RECIPES, "mine.toml"]
    assert bash_offers("ser", "train", "--recipe", "recipes/") == ["recipes/yours.toml"]
    assert bash_offers("ser", "train", "--encoder", "") == ["conformer", "vggish"]


def test_run_folders_are_offered_one_level_down(on_path):
    make_run("runs/first", 1, 2)
    make_run("second")
    Path("no-run").mkdir()
    assert bash_offers("ser", "evaluate", "") == ["runs/first", "second"]
    assert bash_offers("ser", "evaluate", "runs/f") == ["runs/first"]
    assert bash_offers("ser", "evaluate", "no") == []
    assert bash_offers("ser", "predict", "--model", "") == ["runs/first", "second"]
    assert bash_offers("ser", "predict", "--model", "runs/first/") == ["runs/first/fold-1", "runs/first/fold-2"]


def test_fish_offers_values_with_what_they_are(on_path, home):
    prepare_marker(home, "calls", "calm", "angry")
    make_run("runs/first")
    assert fish_offers("ser train --dataset ") == {
        "calls": "prepared from a manifest",
        "demo": "Demo: synthetic emotional speech, rendered by ser itself",
    }
    assert fish_offers("ser evaluate ") == {"runs/first": "run"}
    assert set(fish_offers("ser train --recipe ")) == set(RECIPES)
    assert {"prepare", "train", "evaluate"} <= set(fish_offers("ser "))


@pytest.mark.parametrize(("line", "wanted"), [("ser train --dataset rav", "ravdess"), ("ser evaluate r", "runs/first")])
def test_zsh_completes_at_the_first_tab_after_it_found_the_script_in_its_path(on_path, home, line, wanted):
    needs("zsh")
    prepare_marker(home, "ravdess", "calm", "angry")
    make_run("runs/first")
    code = ZSH.format(folder=COMPLETIONS, line=line, wanted=wanted)
    try:
        result = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        pytest.fail(f"zsh never showed {wanted}")
    if "zsh/zpty" in result.stderr:
        pytest.skip("this zsh has no module zsh/zpty")
    assert wanted in result.stdout


def test_a_damaged_data_home_or_folder_does_not_disturb_tab(on_path, home):
    prepare_marker(home, "ravdess", "calm")
    (home / "corpora" / "broken").mkdir()
    (home / "corpora" / "broken" / "prepared.json").write_text("{")
    assert bash_offers("ser", "train", "--dataset", "") == ["demo", "ravdess"]
    assert bash_offers("ser", "train", "--recipe", "nowhere/") == []
    assert bash_offers("ser", "evaluate", "~nobody-here/") == []


def test_what_completion_knows_is_what_the_corpora_say():
    from ser_cli.corpora import CORPORA
    from ser_cli.data.protocols import shipped_protocols

    assert set(known_corpora.TITLES) == set(CORPORA)
    assert {name for name, corpus in CORPORA.items() if corpus.render} == set(known_corpora.RENDERED)
    for name, corpus in CORPORA.items():
        assert list(known_corpora.LABEL_SETS[name]) == [kept.name for kept in corpus.label_sets]
        assert list(known_corpora.PROTOCOLS.get(name, {})) == [known.name for known in shipped_protocols(name)]


@pytest.mark.parametrize(
    "line", ["ser train --dataset ", "ser train --dataset tess --labels ", "ser train --protocol ", "ser "]
)
def test_tab_loads_nothing_heavy(line):
    heavy = ("torch", "transformers", "numpy", "rich", "soundfile", "matplotlib", "jinja2")
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: sys.stderr.write(repr([n for n in {heavy} if sys.modules.get(n)])))\n"
        "from ser_cli.__main__ import main\nmain()"
    )
    asked = {"_SER_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked}, cwd=ROOT
    )
    assert result.stderr == "[]"
    assert result.stdout.startswith("_arguments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the working tree, and what it leaves below an environment's folder."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("ser_cli", "man", "completions"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    built = subprocess.run([*command, "-w", folder, tree], capture_output=True, text=True)
    if "No module named 'setuptools" in built.stderr or "BackendUnavailable" in built.stderr:
        pytest.skip("setuptools is not installed here, and a build of its own would fetch it")
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_leaves_pages_and_completions_in_share(wheel, tmp_path):
    # Without --ignore-installed pip would remove this environment's own `ser` first.
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--ignore-installed"]
    subprocess.run([*install, "--prefix", tmp_path / "new", wheel], check=True, capture_output=True)
    share = tmp_path / "new" / "share"
    if not share.exists():  # Debian's Python installs below local/
        share = tmp_path / "new" / "local" / "share"
    assert {page.name: page.read_text() for page in (share / "man" / "man1").iterdir()} == manual_pages()
    folders = {"bash": "bash-completion/completions", "zsh": "zsh/site-functions", "fish": "fish/vendor_completions.d"}
    for shell, name in SHELLS.items():
        assert (share / folders[shell] / name).read_text() == completion_scripts()[name]
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    for page in ("ser", "ser-train"):
        shown = subprocess.run(["man", "-M", share / "man", page], capture_output=True, text=True)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "SYNOPSIS" in shown.stdout


def test_the_wheel_holds_the_package_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ser_cli/recipes/mll.toml", "ser_cli/py.typed", "ser_cli/commands/known_corpora.py"} <= names


@pytest.mark.parametrize("page", manual_pages())
def test_each_page_has_all_sections_and_only_known_neighbours(page):
    text = manual_pages()[page]
    sections = [line.removeprefix(".SH ") for line in text.splitlines() if line.startswith(".SH ")]
    wanted = {
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    }
    assert wanted <= set(sections)
    assert len(sections) == len(set(sections))
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert sections[-1] == "SEE ALSO"
    neighbours = re.findall(r"^\.BR (\S+) \(1\)", text.partition(".SH SEE ALSO")[2], flags=re.M)
    assert {f"{name}.1".replace("\\-", "-") for name in neighbours} == set(manual_pages()) - {page}


def test_pages_tell_defaults():
    page = manual_pages()["ser-mix.1"].replace("\\-", "-")
    told = dict(re.findall(r"^\.B (--[a-z-]+).*\n(.*)$", page, flags=re.M))
    assert told["--count"].endswith("Default: 20.")
    assert told["--seed"].endswith("Default: 0.")
    assert told["--method"].endswith("Default: eam.")
    assert told["--page"].endswith("Default: --page.")
    assert told["--output"].endswith("Required.")
    assert "Default" not in told["--force"]


SBATCH = """#!/bin/sh
# Stands in for Slurm's: runs the tasks of an array at the same time, and a dependent job where all of them succeeded.
set -u
array= after= log=slurm.log name=job id=$(($(cat jobs 2>/dev/null || echo 0) + 1))
echo "$id" > jobs
while [ $# -gt 0 ]; do
  case $1 in
    --wrap) work=$2; shift ;;
    --array=*) array=${1#--array=} ;;
    --dependency=afterok:*) after=${1#--dependency=afterok:} ;;
    --output=*) log=${1#--output=} ;;
    --job-name=*) name=${1#--job-name=} ;;
    --parsable | --cpus-per-task=* | --mem=* | --time=*) ;;
    --requeue | --open-mode=append | --signal=USR1@60) ;;
    *) echo "sbatch: unknown $1" >&2; exit 1 ;;
  esac
  shift
done
[ -z "$after" ] || [ "$(cat "state-$after")" = done ] || { echo "$id never ran" > "state-$id"; exit 0; }
state=done tasks=
for task in $(seq $(echo "${array:-0-0}" | tr - ' ')); do
  file=$(echo "$log" | sed "s/%x/$name/; s/%a/$task/")
  (SLURM_ARRAY_TASK_ID=$task; SLURM_JOB_ID=$id; export SLURM_ARRAY_TASK_ID SLURM_JOB_ID
    exec sh -c "$work") > "$file" 2>&1 &
  tasks="$tasks $!"
done
for task in $tasks; do wait "$task" || state=failed; done
echo "$state" > "state-$id"
echo "$id"
"""

SER_ON_TONES = """#!/bin/sh
# `ser` on a corpus of tones in the place of RAVDESS, with a model that trains in a second.
for word; do
  shift
  case $word in ravdess) word={manifest} ;; --dataset) word=--manifest ;; esac
  set -- "$@" "$word"
done
[ "$1" != train ] || set -- "$@" {tiny}
[ "${{SER_STOPPED_AT:-}}" != "${{SLURM_ARRAY_TASK_ID:-none}}" ] || exit 138
[ "${{SER_FAILS_AT:-}}" != "${{SLURM_ARRAY_TASK_ID:-none}}" ] || exit 1
exec {python} -m ser_cli "$@"
"""


def batch_scripts() -> dict[str, str]:
    """The shell scripts of the README's chapter, by what is special in them."""
    chapter = README.partition("## Batch jobs\n")[2].partition("\n## ")[0]
    scripts = [block for block in re.findall(r"```sh\n(.*?)```", chapter, flags=re.S) if block.startswith("#!/bin/sh")]
    return {next(word for word in ("sbatch", "xargs", "for fold") if word in script): script for script in scripts}


@pytest.fixture
def tiny_ser(on_path, tones):
    """`ser` and `sbatch` on the path, for scripts that name RAVDESS and Slurm."""
    tiny = shlex.join(word.replace(", ", ",") for word in TINY)
    manifest, python = shlex.quote(str(tones)), shlex.quote(sys.executable)
    write_program(on_path / "ser", SER_ON_TONES.format(manifest=manifest, tiny=tiny, python=python))
    write_program(on_path / "sbatch", SBATCH)
    write_program(on_path / "srun", '#!/bin/sh\nexec "$@"\n')
    write_program(on_path / "scontrol", '#!/bin/sh\necho "$*" >> requeued\n')


def run_script(text: str, **variables: str):
    Path("job.sh").write_text(text)
    return subprocess.run(["sh", "job.sh"], capture_output=True, text=True, env={**os.environ, **variables})


def test_the_readme_shows_an_array_job_and_loops():
    assert set(batch_scripts()) == {"sbatch", "xargs", "for fold"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sbatch", "xargs", "for fold"])
def test_batch_jobs_of_the_readme_leave_the_scores_of_all_folds(tiny_ser, kind):
    result = run_script(batch_scripts()[kind])
    told = "\n".join(log.read_text() for log in Path().glob("ser-*.log"))
    assert result.returncode == 0, result.stderr + told
    scores = json.loads(Path("runs/mine/scores.json").read_text())
    assert [fold["fold"] for fold in scores["folds"]] == [1, 2, 3, 4, 5, 6]
    assert scores["missing_folds"] == []
    assert scores["pooled"]["n"] == 54
    if kind == "sbatch":
        assert "pooled" in Path("ser-scores.log").read_text()
    if kind == "for fold":
        assert json.loads(Path("mine.json").read_text())["mean"] == scores["mean"]


@pytest.mark.slow
def test_a_failed_task_of_the_array_keeps_the_scores_from_being_made(tiny_ser):
    result = run_script(batch_scripts()["sbatch"], SER_FAILS_AT="4")
    assert result.returncode == 0, result.stderr
    assert Path("state-1").read_text() == "failed\n"
    assert not Path("ser-scores.log").exists()
    assert not Path("runs/mine/scores.json").exists()
    assert sorted(path.name for path in Path("runs/mine").glob("fold-*/done.json")) == ["done.json"] * 5


@pytest.mark.slow
def test_a_task_that_ran_out_of_time_is_put_back_into_the_queue(tiny_ser):
    result = run_script(batch_scripts()["sbatch"], SER_STOPPED_AT="2")
    assert result.returncode == 0, result.stderr
    assert Path("requeued").read_text() == "requeue 1\n"
    assert Path("state-1").read_text() == "failed\n"  # Slurm itself would wait for the job that is back in the queue
