"""Ways to damage a step's files on disk."""


def flip_bit(path, position, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def arrays_file(folder):
    return max((folder / "state" / "ocdbt.process_0" / "d").iterdir(), key=lambda p: p.stat().st_size)
