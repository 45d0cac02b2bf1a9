"""The bus for blocking code, as of Flask, Django or a script::

    from commandbus.sync import connect

    with connect("postgresql://shop@localhost/shop", app=app) as bus:
        bus.send(domain="orders", command_type="ReserveStock", command_id=uuid4(), data={"order": 7})
        bus.process(OrderProcess).start({"order": 7})
        bus.troubleshooting.operator_retry(command_id, operator="anna", reason="the printer is back")
        with bus.transaction() as conn:
            conn.execute("INSERT INTO orders …")
            bus.send(..., conn=conn)

There is one bus, the async one: its code runs on an event loop in a thread of its own, and each call waits for it.
"""

from commandbus.blocking.proxy import SyncProxy
from commandbus.sync.client import SyncCommandBus, SyncProcessManager, SyncReplyQueue, connect
from commandbus.sync.faces import SyncProcessRepository, SyncTroubleshootingQueue
from commandbus.sync.portal import Portal

__all__ = [
    "Portal",
    "SyncCommandBus",
    "SyncProcessManager",
    "SyncProcessRepository",
    "SyncProxy",
    "SyncReplyQueue",
    "SyncTroubleshootingQueue",
    "connect",
]
