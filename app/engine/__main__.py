"""`python -m app.engine --device cpu`, or `--device gpu0 --gpu UUID` with CUDA_VISIBLE_DEVICES set to that card."""

from __future__ import annotations

import argparse
import sys

from loguru import logger

from app.child import NO_DATABASE, NOT_READY, TAKEN, start_heartbeats
from app.config import load_config
from app.engine.instance import Instance
from app.engine.storage import wait_for_database
from app.errors import DatabaseDown, SplatgateError
from app.identity import DeviceTaken
from app.log import start_logging


def main() -> None:
    """Runs the engine of one device until SIGTERM. Exits with one of the codes in app.child."""
    parser = argparse.ArgumentParser(prog="python -m app.engine", description="Runs one engine of splatgate serve.")
    parser.add_argument("--device", default="cpu", help="name of the device on this host: cpu, gpu0, gpu1, ...")
    parser.add_argument("--gpu", default="", help="the card's uuid; empty: no GPU")
    options = parser.parse_args()
    try:
        config = load_config()
        start_logging(config.log.level, validation=config.validation.enabled, as_json=config.log.as_json)
        start_heartbeats(config.jobs.heartbeat_seconds)
        wait_for_database(config)
        instance = Instance(config, options.device, options.gpu)
    except DeviceTaken as error:
        logger.critical(str(error))
        sys.exit(TAKEN)
    except SplatgateError as error:
        logger.critical(str(error))
        sys.exit(NO_DATABASE if isinstance(error, DatabaseDown) else NOT_READY)
    # imported late: torch takes seconds to import, and the end of the previous instance is reported first
    from app.engine.engine import Engine

    Engine(instance).run()


if __name__ == "__main__":
    main()
