"""Two trained arms on the same photos: statistics, cost, pictures, verdict; one page and one JSON file.

results.py       what a comparison says, as plain values (the JSON's shape)
"""
