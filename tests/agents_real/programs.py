"""The four programs: where they come from, and what each needs in a home to speak with the stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

KEY = "not-a-key"


class Program(NamedTuple):
    """`script` is what npm would run after the install; run by hand, it is the same under every version of npm."""

    name: str
    title: str
    package: str
    version: str
    script: str | None = None
    tools: bool = True


PROGRAMS = (
    Program("claude", "Claude Code", "@anthropic-ai/claude-code", "2.1.197", "install.cjs"),
    Program("codex", "Codex", "@openai/codex", "0.169.0"),
    Program("opencode", "OpenCode", "opencode-ai", "1.18.33", "postinstall.mjs"),
    Program("aider", "aider", "aider-chat", "0.86.2", tools=False),
)


def install(folder):
    """All four, at their versions, into a folder of their own: about 1 GB. What is there already is left alone."""
    npm = [program for program in PROGRAMS if program.name != "aider"]
    wanted = {program.name: program.version for program in PROGRAMS}
    mark = folder / "installed.json"
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return
    folder.mkdir(exist_ok=True)
    print(
        f"installing {', '.join(f'{program.title} {program.version}' for program in PROGRAMS)} into {folder}",
        flush=True,
    )
    packages = [f"{program.package}@{program.version}" for program in npm]
    quiet = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    subprocess.run(["npm", "install", "--prefix", folder / "npm", *quiet, *packages], check=True)
    for program in npm:
        if program.script is not None:
            subprocess.run(["node", program.script], cwd=folder / "npm" / "node_modules" / program.package, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder / "aider"], check=True)
    aider = f"aider-chat=={wanted['aider']}"
    subprocess.run(
        [folder / "aider" / "bin" / "pip", "install", "-q", "--disable-pip-version-check", aider], check=True
    )
    mark.write_text(json.dumps(wanted))


def path(folder):
    """$PATH with the programs on it."""
    return f"{folder / 'npm' / 'node_modules' / '.bin'}:{folder / 'aider' / 'bin'}:{os.environ['PATH']}"


def said_versions(folder):
    """What each program says that it is: the words of `--version`."""
    said = {}
    for program in PROGRAMS:
        argv = [program.name, "--version"]
        done = subprocess.run(
            argv, env={**os.environ, "PATH": path(folder)}, capture_output=True, text=True, check=True
        )
        assert program.version in done.stdout, (argv, done.stdout)
        said[program.name] = done.stdout.strip()
    return said


def environment(folder, port):
    """What the daemon is started with: the places of the model APIs, and keys that open nothing."""
    return {
        "PATH": path(folder),
        "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{port}",
        "CLAUDE_CODE_OAUTH_TOKEN": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "OPENAI_API_BASE": f"http://127.0.0.1:{port}/v1",
        "OPENAI_API_KEY": KEY,
        "AIDER_MODEL": "openai/gpt-5",
    }


def furnish(home, port):
    """The files that Codex and OpenCode read their providers from, and git its author."""
    write(
        home / ".codex" / "config.toml",
        'model = "gpt-5"\nmodel_provider = "here"\n\n[model_providers.here]\nname = "here"\n'
        f'base_url = "http://127.0.0.1:{port}/v1"\nwire_api = "responses"\nenv_key = "OPENAI_API_KEY"\n'
        "request_max_retries = 1\nstream_max_retries = 1\n",
    )
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "here",
        "options": {"baseURL": f"http://127.0.0.1:{port}/v1", "apiKey": KEY},
        "models": {"gpt-5": {"name": "gpt-5"}},
    }
    settings = {"provider": {"here": provider}, "model": "here/gpt-5", "small_model": "here/gpt-5"}
    write(home / ".config" / "opencode" / "opencode.json", json.dumps(settings, indent=2))
    write(home / ".gitconfig", "[user]\n\tname = Me\n\temail = me@example.com\n[init]\n\tdefaultBranch = main\n")


def project(home):
    """A project in git for the agents to work in."""
    folder = home / "project"
    write(folder / "parser.py", "def parse(text): ...\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run(["git", *words], cwd=folder, env={**os.environ, "HOME": str(home)}, check=True)
    return folder


def write(place: Path, text):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
