"""Clients that keep book: what each event was answered, however often it had to be asked."""

import threading
import time
import uuid

import hofflight as hof
from hofflight.errors import Indefinite, Refused
from tests.integration.kafka_place import event


class Ledger:
    """Clients that ask for cards of their own, one event after the other, until they are told to
    stop; each event's outcome, and a retry with the same id until there is one."""

    def __init__(self, addresses, clients=4):
        self.addresses = addresses
        self.stop = threading.Event()
        self.answered = {}
        self.outcomes = {"answered": 0, "refused": 0, "indefinite": 0}
        self.wrong = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.ask, args=[n]) for n in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(90)

    def ask(self, number):
        count = 0
        while not self.stop.is_set():
            id_ = uuid.uuid4()
            for turn in range(400):
                found = self.once(number, count, id_, turn)
                if found is not None:
                    break
                time.sleep(0.05)
            else:
                self.wrong.append((number, count, "no answer in the end"))
                return
            count += 1
            # Every event of this card was answered once before, so its windows say how many.
            if (found["card_tx.card"], found["card_tx.n_60"]) != (number, min(count, 60)):
                self.wrong.append((number, count, found))
        self.answered[number] = count

    def once(self, number, count, id_, turn):
        address = self.addresses[(number + turn) % len(self.addresses)]
        try:
            with hof.connect(address, deadline_ms=2_000) as client:
                found = client.vector(
                    "card_tx", event(number, count), request_id=id_, deadline_ms=1_500
                )
        except Refused:
            self.note("refused")
        except Indefinite:
            self.note("indefinite")
        else:
            self.note("answered")
            return found.to_dict()
        return None

    def note(self, outcome):
        with self.lock:
            self.outcomes[outcome] += 1


def settled(ledger, seconds):
    """Let the clients go on for a while."""
    time.sleep(seconds)
    assert not ledger.wrong, ledger.wrong[:3]
