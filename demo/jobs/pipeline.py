"""A Ray Data pipeline that works, and one that does not."""

import ray


def double(batch):
    return {"id": batch["id"] * 2}


def refuse(batch):
    raise ValueError("bad batch")


ray.init(log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
numbers = ray.data.range(1000, override_num_blocks=2).map_batches(double)
numbers.set_name("numbers")
print("rows:", numbers.filter(lambda row: row["id"] % 3 == 0).count())
try:
    ray.data.range(100, override_num_blocks=1).map_batches(refuse).materialize()
except Exception as error:  # noqa: BLE001 (any error will do)
    print("failed:", type(error).__name__)
