"""From the options of a command to the jobs it stands for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ltcli import methods
from ltcli.artifacts.folder import read_folder
from ltcli.core.errors import ArtifactError, ParamError
from ltcli.core.params import build, specs
from ltcli.core.yaml_file import read_mapping
from ltcli.stages.run import Job
from ltcli.stages.stage import Stage


def from_options(stage: Stage, values: Mapping[str, Any]) -> Iterator[Job]:
    """Return the jobs of one command line: one, or one per model for ``evaluate``.

    Args:
        stage: The stage.
        values: Option name to value, None for those that were not given.

    Raises:
        LtcliError: A parameter or a file is wrong.
    """
    given = {name: value for name, value in values.items() if value is not None}
    folder, force, device = given.pop("folder"), given.pop("force"), given.pop("device")
    out, config = given.pop("out", None), given.pop("config", None)
    prefix = "input_"
    named = {
        name[len(prefix) :]: given.pop(name) for name in list(given) if name.startswith(prefix)
    }
    params = _params(stage, given, config)
    unused = [entry.name for entry in stage.inputs if not entry.needed(params)]
    for name in unused:
        if name in named:
            raise ParamError(stage.name, f"{name} is not read with these parameters")
    inputs = {
        entry.name: named.get(entry.name, folder / f"{entry.file}.safetensors")
        for entry in stage.inputs
        if entry.name in named or (entry.name not in unused and entry.file is not None)
    }
    if stage.for_each is not None and stage.for_each not in named:
        if out is not None:
            rule = f"--out needs --{stage.for_each}, as there is one output for each"
            raise ParamError(stage.name, rule)
        choices = [{**inputs, stage.for_each: path} for path in _all_of_kind(stage, folder)]
    else:
        choices = [inputs]
    for chosen in choices:
        stem = stage.name if stage.output_stem is None else stage.output_stem(params, chosen)
        target = out or folder / f"{stem}.safetensors"
        if target.suffix != ".safetensors":
            raise ParamError(stage.name, f"out must end in .safetensors, got {target}")
        yield Job(stage, params, chosen, target, device, force)


def _params(stage: Stage, given: Mapping[str, Any], config: Path | None) -> Any:
    from_file = read_mapping(config) if config is not None else {}
    values = {**from_file, **given}
    where = stage.name
    record = stage.params
    more: dict[str, Any] = {}
    if stage.has_methods:
        spec = next(spec for spec in specs(record) if spec.name == "method")
        if spec.required and "method" not in values:
            known = ", ".join(methods.names(stage.name))
            raise ParamError(where, "method must be given", f"--method is one of {known}")
        method = methods.find(str(values.get("method", spec.default)), stage.name)
        more = {
            "options": method.options,
            "defaults": {**stage.defaults, **method.defaults.get(stage.name, {})},
        }
    if config is not None:
        # A mistake in the file is reported with the file's name, not the command's.
        build(record, {**_required(record), **from_file}, str(config), **more)
    return build(record, values, where, **more)


def _required(record: type) -> dict[str, Any]:
    """Return acceptable values for parameters without default, which a file may leave out."""
    return {
        spec.name: spec.choices[0] if spec.choices else ""
        for spec in specs(record)
        if spec.required
    }


def _all_of_kind(stage: Stage, folder: Path) -> list[Path]:
    """Return the files that ``for_each`` can be, the one with the default name first."""
    entry = next(entry for entry in stage.inputs if entry.name == stage.for_each)
    headers = read_folder(folder, f"remove it, or name one with --{entry.name}")
    found = [header.path for header in headers if header.kind == entry.kind]
    if not found:
        rule = f"has no artifact of kind {entry.kind}"
        raise ArtifactError(folder, rule, "run the stage that makes it first")
    return sorted(found, key=lambda path: (path.stem != entry.file, path.name))
