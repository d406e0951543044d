"""Measurements that the documentation shows. Each is one command and writes `results/`.

python -m benchmarks.ladder cifar10 --data-dir .gearshift     # speed and size against the reference
python -m benchmarks.quantisers cifar10 --data-dir .gearshift # int8 beside other quantisers
python -m benchmarks.routing --trace FILE… --profiles FILE…   # our router beside every other
python -m benchmarks.peers                                    # other model servers beside ours
python -m benchmarks.payload                                  # JSON and raw tensors, by size
python -m benchmarks.soak                                     # memory over a million requests
python -m benchmarks.tables check                             # the docs show what is in results/
"""
