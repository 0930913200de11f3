"""A small Ray job: measurements that work, fail and are tried again, and a station that dies."""

import time

import ray


@ray.remote
def measure(place: str) -> float:
    if place == "nowhere":
        raise LookupError(f"no such place: {place}")
    return len(place) * 1.5


@ray.remote(max_retries=2, retry_exceptions=True)
def radio(attempts: "ray.actor.ActorHandle") -> int:
    tried = ray.get(attempts.add.remote())
    if tried < 2:
        raise ConnectionError(f"noise at try {tried}")
    return tried


@ray.remote
def forecast() -> None:
    time.sleep(3600)


@ray.remote
class Station:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


ray.init()
places = ["Oslo", "Lima", "Quito", "Hanoi", "Nairobi", "Apia", "nowhere"]
measured = [measure.options(name=f"measure {place}").remote(place) for place in places]
for place, value in zip(places, measured, strict=True):
    try:
        print(place, ray.get(value))
    except LookupError as error:
        print(error.cause)

station = Station.options(name="north").remote()
print("radio heard at try", ray.get(radio.remote(station)))
ray.kill(station)

forecast.remote()  # nobody waits for it
time.sleep(2)
