"""LiteLLM's proxy with one worker, without keys, logs or retries."""

from pathlib import Path

from bench.peers.place import FOLDER, INSTALL, LITELLM, http_target
from bench.process import Processes, free_port
from bench.target import Target
from bench.upstream import FAST, PACED

CONFIG = """\
model_list:
{models}
litellm_settings:
  num_retries: 0
  telemetry: false
"""
MODEL = """\
  - model_name: {name}
    litellm_params: {{model: openai/{name}, api_base: "{url}", api_key: none}}
"""


class LiteLLM:
    """The peer that most people compare with."""

    name = "litellm"
    label = f"LiteLLM proxy {LITELLM}, 1 worker"
    missing = INSTALL

    def is_installed(self) -> bool:
        return _command().exists()

    async def start(self, processes: Processes, folder: Path, upstream_url: str) -> Target:
        models = "".join(MODEL.format(name=name, url=upstream_url) for name in (FAST, PACED))
        config = folder / "litellm.yaml"
        config.write_text(CONFIG.format(models=models.rstrip()))
        port = free_port()
        argv = [str(_command()), "--config", str(config), "--host", "127.0.0.1"]
        process = await processes.start(
            self.name,
            [*argv, "--port", str(port), "--num_workers", "1"],
            environ={
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
                "LITELLM_LOCAL_MODEL_COST_MAP": "true",
                "LITELLM_LOG": "ERROR",
            },
            port=port,
            cwd=folder,
        )
        return http_target(self.name, process)


def _command() -> Path:
    return FOLDER / "litellm/bin/litellm"
