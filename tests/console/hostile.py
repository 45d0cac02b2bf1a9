"""A database in which every field that a page may show holds a text of the test's choice, and the hostile texts."""

import itertools
import json
from collections.abc import Sequence
from typing import LiteralString

import psycopg

_OUT_OF = (
    "",
    '">',
    "'>",
    "</script>",
    "</title>",
    "</pre></code>",
    "--></textarea>",
    "]]></style>",
    "</template></select>",
    '" x=y ',
)
_INTO = (
    "<script data-xss>alert(1)</script>",
    "<img data-xss src=x onerror=alert(1)>",
    "<svg data-xss onload=alert(1)>",
    "<svg data-xss><script>alert(1)</script></svg>",
    "<body data-xss onload=alert(1)>",
    "<iframe data-xss srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<iframe data-xss src=javascript:alert(1)></iframe>",
    "<a data-xss href=javascript:alert(1) autofocus onfocus=alert(1)>x</a>",
    "<input data-xss autofocus onfocus=alert(1)>",
    "<details data-xss open ontoggle=alert(1)>x</details>",
    "<video data-xss><source onerror=alert(1)></video>",
    "<object data-xss data=javascript:alert(1)></object>",
    "<form data-xss action=javascript:alert(1)><button autofocus onfocus=alert(1)>x</button></form>",
    "<base data-xss href=//evil.example/>",
    "<meta data-xss http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "<link data-xss rel=stylesheet href=//evil.example/x.css onerror=alert(1)>",
    "<div data-xss hx-get=/ hx-trigger=load hx-on::before-request=alert(1)>x</div>",
    "<math data-xss><mtext><img src=x onerror=alert(1)></mtext></math>",
    "{{ 7 * 7 }}{% raw %}${alert(1)}<marquee data-xss onstart=alert(1)>",
    "data-xss autofocus onfocus=alert(1) onmouseover='alert(1)' style=animation-name:beat onanimationstart=alert(1)",
)
PAYLOADS = tuple(f"{out}{into}" for into, out in itertools.product(_INTO, _OUT_OF))
"""200 texts, each of which runs a script or marks an element where a page writes it without escaping."""

MIXED = tuple("\n".join(f"{out}{into}" for out in _OUT_OF) for into in _INTO)
"""The same once more, each way out of what a page may write a text into within one text."""

_STATUSES = ("IN_TROUBLESHOOTING_QUEUE", "FAILED", "COMPLETED", "CANCELED", "PENDING")
_PROCESSES = ("FAILED", "WAITING_FOR_TSQ", "COMPLETED", "COMPENSATED", "COMPENSATING", "WAITING_FOR_REPLY", "CANCELED")

_FILL: tuple[LiteralString, ...] = (
    """CREATE TEMP TABLE t AS
       SELECT n, text, json_build_object(text, text, 'operator', text, 'reason', text, 'type', text, 'code', text,
                                         'error_code', text, 'error_message', text, 'message', text,
                                         'data', json_build_object(text, text), 'list', json_build_array(text)
                                        ) AS object,
              gen_random_uuid() AS command_id, gen_random_uuid() AS process_id, gen_random_uuid() AS batch_id,
              (%(statuses)s::text[])[1 + n %% 5] AS status, (%(processes)s::text[])[1 + n %% 7] AS process_status,
              now() - n * interval '1 second' AS at
         FROM unnest(%(texts)s::text[]) WITH ORDINALITY AS u (text, n)""",
    """INSERT INTO commandbus.batch (batch_id, domain, name, custom_data, batch_type, status, total_count, created_at)
       SELECT batch_id, text, text, object, CASE WHEN n %% 2 = 0 THEN 'PROCESS' ELSE 'COMMAND' END, 'IN_PROGRESS', 1, at
         FROM t""",
    """INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id,
                                       ordinal, error_code, error_message, created_at, updated_at, batch_id)
       SELECT process_id, text, text, process_status, text, object, command_id, 0, text, text, at, at,
              CASE WHEN n %% 2 = 0 THEN batch_id END FROM t""",
    """INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, attempts, max_attempts,
                                       reply_to, batch_id, ordinal, process_id, step, visit, result,
                                       error_code, error_message, created_at, updated_at, completed_at)
       SELECT command_id, text, text, object, status, 2, 3, text, CASE WHEN n %% 2 = 1 THEN batch_id END, 0,
              CASE WHEN n %% 3 = 0 THEN process_id END, text, 1, object, text, text, at, at,
              CASE WHEN status = 'COMPLETED' THEN at END FROM t""",
    """INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures,
                                               lost_leases, max_attempts, moved_at, error_code, error_message)
       SELECT command_id, text, text, 2, 2, 0, 0, 3, at, text, text FROM t WHERE status = 'IN_TROUBLESHOOTING_QUEUE'""",
    """INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)
       SELECT text, command_id, text, at FROM t WHERE status = 'PENDING'""",
    """INSERT INTO commandbus.uncompleted (domain, command_type, status, created_at, command_id)
       SELECT text, text, status, at, command_id FROM t WHERE status IN ('FAILED', 'CANCELED')""",
    """INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, details)
       SELECT command_id, e.type, at + e.n * interval '1 millisecond', 1, 1, 1, 3, object
         FROM t CROSS JOIN unnest('{SENT,RECEIVED,RETRY_SCHEDULED,RECEIVED,MOVED_TO_TSQ,OPERATOR_RETRY}'::text[])
              WITH ORDINALITY AS e (type, n)""",
    """INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, version,
                                      started_at, heartbeat_at, alive_until)
       SELECT text, text, n, ARRAY[text], ARRAY[text], 1, text, at, at, clock_timestamp() + interval '1 hour' FROM t""",
    """INSERT INTO commandbus.worker_statistic
       SELECT date_trunc('second', clock_timestamp()) - interval '10 seconds', worker_id, domain, 1, 1, 0, 0, 0,
              0.1, '{100}', '{1}', 0.1, '{100}', '{1}' FROM commandbus.worker""",
)


def fill(dsn: str, texts: Sequence[str]) -> None:
    """Make a batch, a process, a command with its trail, and a worker of each text, past every check of the library."""
    params = {"texts": list(texts), "statuses": list(_STATUSES), "processes": list(_PROCESSES)}
    with psycopg.connect(dsn) as conn:
        for statement in _FILL:
            conn.execute(statement, params, prepare=False)


def has_payload(text: str) -> bool:
    """Whether a page's text shows one of the hostile texts, plainly or as JSON writes it."""
    return any(payload in text or json.dumps(payload)[1:-1] in text for payload in PAYLOADS)
