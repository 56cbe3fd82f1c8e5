"""Write the parts of the documentation that the code owns: options, environment variables, configurations, alerts.

    .venv/bin/python docs/generate.py            # writes them
    .venv/bin/python docs/generate.py --check    # exit status 1 if a page differs

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of PARTS, with an argument behind a
space where it takes one. tests/docs/test_generated.py runs the check.
"""

import argparse
import ast
import contextlib
import importlib
import io
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- generated: ([\w-]+)(?: ([^>]*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
HELP_COLUMNS = "110"
WIDTH = 160  # characters of a line in docs/


def pages() -> list[Path]:
    """Return the pages that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table; a line over WIDTH is an error, as it could not be wrapped."""
    lines = [header, tuple("---" for _ in header), *rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    for line in text.splitlines():
        if len(line) > WIDTH:
            raise ValueError(f"a line of {len(line)} characters; shorten it where it comes from: {line}")
    return text + "\n"


def command_help(command: str) -> str:
    """Return what `python -m COMMAND --help` prints, as a code block."""
    module, *arguments = command.split()
    name = {"emotion_client.cli": "emotion-client"}.get(module, f"python -m {module}")
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": HELP_COLUMNS}),
        mock.patch.object(sys, "argv", [name, *arguments, "--help"]),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        for variable in [one for one in os.environ if one.startswith("EMOSERVE_")]:
            del os.environ[variable]
        if module == "emotion_client.cli":
            importlib.import_module(module).main()
        else:
            runpy.run_module(module, run_name="__main__")
    # where a line with a path breaks depends on the directory of the checkout
    text = re.sub(r"\(default:\n +\./", "(default: ./", printed.getvalue().replace(str(ROOT), ".")).strip()
    return "```text\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```\n"


def make_targets() -> str:
    """Return the targets of the Makefile with what they do, as `make help` lists them."""
    found = re.findall(r"^([a-z0-9-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return table(("target", "what it does"), [(f"`make {name}`", text) for name, text in sorted(found)])


def launcher_variables() -> Iterator[tuple[str, str]]:
    """Yield each variable that is the default of an option of `python -m serving`, and that option."""
    for call in ast.walk(ast.parse((ROOT / "serving" / "__main__.py").read_text())):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            option = next(one.value for one in call.args if isinstance(one, ast.Constant))
            default = [ast.walk(keyword.value) for keyword in call.keywords if keyword.arg == "default"]
            for node in (node for nodes in default for node in nodes):
                if isinstance(node, ast.Constant) and str(node.value).startswith("EMOSERVE_"):
                    yield str(node.value), str(option)


def launcher_environment() -> str:
    """Return the variables of `python -m serving` that stand for an option."""
    rows = [(f"`{name}`", f"`{option}`") for name, option in sorted(launcher_variables())]
    return table(("variable", "stands for the option"), rows)


def gateway_environment() -> str:
    """Return the settings of `python -m web.gateway`."""
    from web.gateway.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = "none" if field.default is None else str(field.default).replace("'", '"')
        default = default.replace(str(ROOT) + "/", "")
        rows.append((f"`EMOSERVE_{name.upper()}`", f"`--{name.replace('_', '-')}`", default, field.description or ""))
    return table(("variable", "option", "default", "meaning"), rows)


def gateway_paths() -> str:
    """Return the paths of the gateway's API and their answers, from its OpenAPI schema."""
    from web.gateway.app import create_app
    from web.gateway.metrics import Metrics
    from web.gateway.settings import Settings

    rows = []
    settings = Settings(feedback=Path("feedback"))  # with all paths
    for path, methods in create_app(settings, Metrics()).openapi()["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                done = status in ("200", "201")
                meaning = operation["description"].partition("\n\n")[0] if done else response["description"]
                rows.append((f"`{method.upper()} {path}`", status, meaning))
    return table(("request", "status", "meaning"), rows)


def gateway_answer() -> str:
    """Return the fields of the gateway's answer, from its OpenAPI schema."""
    from web.gateway.app import create_app
    from web.gateway.metrics import Metrics
    from web.gateway.settings import Settings

    schemas = create_app(Settings(), Metrics()).openapi()["components"]["schemas"]
    rows = []
    for name, field in schemas["Analysis"]["properties"].items():
        referred = schemas.get(field.get("$ref", "").rpartition("/")[2], {})
        rows.append((f"`{name}`", field.get("description") or referred.get("description", "")))
    return table(("field", "meaning"), rows)


def configuration(path: Path) -> Any:
    """Return a Triton model configuration."""
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def configurations() -> Iterator[tuple[str, str, Any]]:
    """Yield the model, the name of the configuration ("" for config.pbtxt) and the configuration."""
    for repository in ("model_repository", "speech_repository"):
        for path in sorted((ROOT / repository).glob("*/config.pbtxt")):
            yield path.parent.name, "", configuration(path)
            for named in sorted((path.parent / "configs").glob("*.pbtxt")):
                yield path.parent.name, named.stem, configuration(named)


def model_instances() -> str:
    """Return the batch limits and instances of each model and named configuration."""
    rows = []
    for model, name, config in configurations():
        groups = [
            f"{group.count} x {model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind).removeprefix('KIND_')}"
            for group in config.instance_group
        ]
        batch = ", ".join(str(size) for size in config.dynamic_batching.preferred_batch_size)
        delay = config.dynamic_batching.max_queue_delay_microseconds
        rows.append(
            (
                f"`{model}`",
                f"`{name}`" if name else "(default)",
                config.platform or config.backend,
                str(config.max_batch_size),
                batch or "-",
                f"{delay} us" if delay else "-",
                ", ".join(groups) or "-",
            )
        )
    header = ("model", "configuration", "runs as", "rows a request", "preferred batch", "queue delay", "instances")
    return table(header, rows)


def model_parameters() -> str:
    """Return the parameters of each model and named configuration."""
    rows = []
    for model, name, config in configurations():
        for key in sorted(config.parameters):
            value = config.parameters[key].string_value or '""'
            rows.append((f"`{model}`", f"`{name}`" if name else "(default)", f"`{key}`", f"`{value}`"))
    return table(("model", "configuration", "parameter", "value"), rows)


def tensors(model: str) -> str:
    """Return the inputs and outputs of a model."""
    config = next(config for found, name, config in configurations() if found == model and not name)
    rows = []
    for direction, several in (("in", config.input), ("out", config.output)):
        for one in several:
            kind = model_config_pb2.DataType.Name(one.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
            rows.append((f"`{one.name}`", direction, kind, f"[n, {', '.join(map(str, one.dims))}]"))
    return table(("tensor", "", "type", "shape"), rows)


def alerts() -> str:
    """Return the alerts, with how long each condition must last and where the runbook has them."""
    rules = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text())
    rows = []
    for rule in (rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule):
        description = " ".join(rule["annotations"]["description"].split())
        description = re.sub(r"\{\{.*?\}\}", "...", description)
        link = f"[{rule['alert']}](../runbook.md#{rule['alert'].lower()})"
        rows.append(f"- {link} ({rule['labels']['severity']}, after {rule.get('for', '0s')}).\n  {description}")
    return "\n".join(rows) + "\n"


def recording_rules() -> str:
    """Return the names of the recording rules."""
    rules = yaml.safe_load((ROOT / "k8s" / "components" / "monitoring" / "rules.yaml").read_text())
    names = sorted({rule["record"] for group in rules["spec"]["groups"] for rule in group["rules"] if "record" in rule})
    return "\n".join(f"- `{name}`" for name in names) + "\n"


PARTS: dict[str, Callable[..., str]] = {
    "alerts": alerts,
    "gateway-answer": gateway_answer,
    "gateway-environment": gateway_environment,
    "gateway-paths": gateway_paths,
    "help": command_help,
    "launcher-environment": launcher_environment,
    "make-targets": make_targets,
    "model-instances": model_instances,
    "model-parameters": model_parameters,
    "recording-rules": recording_rules,
    "tensors": tensors,
}


def generated(page: str) -> str:
    """Return a page with its generated parts as the code has them now."""

    def part(match: re.Match[str]) -> str:
        begin, name, argument, end = match.groups()
        if name not in PARTS:
            raise ValueError(f"unknown part {name!r}; known are {', '.join(sorted(PARTS))}")
        return f"{begin}\n{PARTS[name](argument) if argument else PARTS[name]()}\n{end}"

    return MARKED.sub(part, page)


def differing(paths: list[Path]) -> list[Path]:
    """Return the pages whose generated parts are out of date."""
    return [path for path in paths if (text := path.read_text()) != generated(text)]


def main() -> int:
    """Write the parts, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page differs")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    old = differing(pages())
    for path in old:
        name = path.relative_to(ROOT)
        if options.check:
            print(f"error: {name} is out of date; run: .venv/bin/python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(generated(path.read_text()))
            print(f"written: {name}")
    return int(options.check and bool(old))


if __name__ == "__main__":
    sys.exit(main())
