"""Migrations: no migration continues half of a transaction."""

from cubicweb.server import hook

from cubicweb_hasite.database import pool
from cubicweb_hasite.hooks import CATEGORY


class WholeTransactionsHook(hook.Hook):
    """Let the transactions of a migration be committed whole or not at all."""

    __regid__ = "hasite.whole_transactions"
    events = ("server_maintenance",)
    category = CATEGORY

    def __call__(self) -> None:
        if self.repo.config.mode != "test":  # CubicWeb's test cases connect again at will
            pool.keep_transactions_whole(self.repo)
