"""The pytest plugin of commandbus: end-to-end, chaos and load tests of a command bus on PostgreSQL."""

from ._ours import require_our_commandbus

require_our_commandbus()

# pytest looks for hooks and fixtures here.
from ._plugin import (  # noqa: E402
    pytest_addoption,
    pytest_assertrepr_compare,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_configure_node,
    pytest_generate_tests,
    pytest_load_initial_conftests,
    pytest_pycollect_makeitem,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_unconfigure,
)
from .fixtures.batches import cb_command_batch, cb_process_batch, cb_worker_pool  # noqa: E402
from .fixtures.bus import (  # noqa: E402
    _cb_app_runtime,
    _cb_crash_point,
    _cb_runtime,
    cb_app,
    cb_audit,
    cb_bus,
    cb_chaos,
    cb_chaos_profiles,
    cb_clock,
    cb_faults,
    cb_pool,
    cb_tsq,
)
from .fixtures.database import (  # noqa: E402
    _cb_class_database,
    _cb_module_database,
    _cb_package_database,
    _cb_session_database,
    cb_database,
    cb_postgres,
)
from .fixtures.load import _cb_shard, cb_load  # noqa: E402

__all__ = [
    "_cb_app_runtime",
    "_cb_class_database",
    "_cb_crash_point",
    "_cb_module_database",
    "_cb_package_database",
    "_cb_runtime",
    "_cb_session_database",
    "_cb_shard",
    "cb_app",
    "cb_audit",
    "cb_bus",
    "cb_chaos",
    "cb_chaos_profiles",
    "cb_clock",
    "cb_command_batch",
    "cb_database",
    "cb_faults",
    "cb_load",
    "cb_pool",
    "cb_postgres",
    "cb_process_batch",
    "cb_tsq",
    "cb_worker_pool",
    "pytest_addoption",
    "pytest_assertrepr_compare",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_generate_tests",
    "pytest_load_initial_conftests",
    "pytest_pycollect_makeitem",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]
