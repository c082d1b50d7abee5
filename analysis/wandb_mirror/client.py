"""W&B's own client: starting a run, logging its rows, and making an artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixsweep.analysis.wandb_mirror.payload import ArtifactContent, RunContent


def start_run(
    run: RunContent, project: str, entity: str | None, folder: Path, mode: str, **settings: Any
) -> Any:
    """Start a run of this content in W&B's client, without its own look at the machine and the code."""
    import wandb

    resume = settings.pop("resume", None)
    quiet = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        x_disable_viewer=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_update_finish_state=run.ended,  # otherwise W&B marks a run without heartbeat as crashed
        **settings,
    )
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        id=run.run_id,
        name=run.name,
        group=run.group,
        tags=list(run.tags),
        config=dict(run.config),
        project=project,
        entity=entity,
        dir=str(folder),
        mode=mode,  # type: ignore[arg-type]
        resume=resume,
        reinit="create_new",  # many runs in one process, one service for all
        settings=quiet,
    )


def log_rows(one: Any, run: RunContent, rows: tuple[Mapping[str, Any], ...]) -> None:
    """Log rows of a started run, each at its epoch, and its summary."""
    one.define_metric("epoch")
    one.define_metric("*", step_metric="epoch")
    for row in rows:
        one.log(dict(row), step=row["epoch"])
    one.summary.update(dict(run.summary))


def make_artifact(content: ArtifactContent, paths: Mapping[str, Path]) -> Any:
    """W&B's artifact of these files, by their names in it; W&B does not copy them, before or after an upload."""
    import wandb

    made = wandb.Artifact(content.name, content.kind, metadata=dict(content.metadata))
    for name, path in sorted(paths.items()):
        made.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    return made
