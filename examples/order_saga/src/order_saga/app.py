"""The application: `commandbus worker order_saga.app:app` works for it, and the tests test it."""

from commandbus import App, RetryPolicy

from .handlers import OrderHandlers
from .process import OrderProcess

app = App(name="order-saga", retry_policy=RetryPolicy(max_attempts=4, backoff_schedule=[10, 60, 300]))
app.registry.register_instance(OrderHandlers())
app.add_process(OrderProcess)
