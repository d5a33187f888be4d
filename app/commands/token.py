"""`splatgate token`: tokens for callers of the service."""

from __future__ import annotations

import click

from app.cli import JSON, print_json


@click.group()
def token() -> None:
    """Create tokens for callers of the service."""


@token.command()
@JSON
def new(as_json: bool) -> None:
    """Create a token. Store it safely, and add its hash as a line to the file set in auth.tokens_file."""
    from app.web.tokens import new_token, token_hash

    made = new_token()
    if as_json:
        print_json({"token": made, "hash": token_hash(made)})
        return
    click.echo(f"token: {made}")
    click.echo(f"hash:  {token_hash(made)}")
    click.echo(
        "The token is shown only once. Add the hash as a line of its own to the file set in auth.tokens_file.", err=True
    )
