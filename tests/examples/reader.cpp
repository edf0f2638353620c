// What test_cpp.py asks of examples/cpp/edgeface.hpp: reader WORD ARGUMENT…, an answer on stdout.

#include <cstdlib>
#include <iostream>
#include <set>

#include "edgeface.hpp"

using namespace edgeface;

static void raw(const void* data, std::size_t size) { std::cout.write(static_cast<const char*>(data), static_cast<std::streamsize>(size)); }

/** The contract's values, one a line, with all digits of a float. */
static void tell(const Contract& contract) {
  std::cout.precision(9);
  std::cout << contract.name << '\n' << contract.precision << '\n' << contract.licence << '\n' << contract.size << '\n';
  std::cout << contract.is_planar << contract.is_float << contract.is_bgr << '\n' << contract.length << '\n';
  for (int c = 0; c < 3; c++) std::cout << contract.mean[c] << ' ' << contract.std[c] << '\n';
  for (const auto& [far, value] : contract.thresholds) std::cout << far << ' ' << value << '\n';
  std::cout << contract.min_cosine << '\n';
  for (const auto& row : contract.golden)
    for (const float value : row) std::cout << value << '\n';
}

/** Takes a file's bytes in every way that goes wrong: cut at each length, and with each of its first and last bytes changed. */
static void torture(const Bytes& whole) {
  std::set<std::string> said;
  const auto attempt = [&](const Bytes& bytes) {
    // As a heap block of just this size, so that the sanitizer sees a read of one byte too many.
    const Bytes exact(bytes);
    try {
      read_contract(exact);
    } catch (const Error& error) {
      require(std::string(error.what()).find('\n') == std::string::npos, "more than a line");
      said.insert(error.what());
    }
  };
  const std::size_t step = std::max<std::size_t>(1, whole.size() / 250);
  for (std::size_t size = 0; size < whole.size(); size += step) attempt(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
  std::uint32_t random = 1;
  const auto draw = [&] { return random = random * 1664525u + 1013904223u, random >> 8; };
  for (int round = 0; round < 1000; round++) {
    Bytes hurt = whole;
    for (std::uint32_t k = draw() % 4 + 1; k; k--) {
      // Half of the hits where the structure is: near the ends, the middle is mostly weights.
      const std::size_t reach = draw() % 2 ? hurt.size() : std::min<std::size_t>(hurt.size(), 600);
      const std::size_t at = draw() % 2 ? draw() % reach : hurt.size() - 1 - draw() % reach;
      constexpr std::uint8_t NASTY[] = {0x00, 0x01, 0x7F, 0x80, 0xFF, '"', '\\', '['};
      hurt[at] = draw() % 2 ? NASTY[draw() % 8] : static_cast<std::uint8_t>(draw());
    }
    attempt(hurt);
  }
  for (const std::string& line : said) std::cout << line << '\n';
}

int main(int, char** words) {
  const std::string what = words[1];
  try {
    if (what == "tell") tell(read_contract(read_file(words[2])));
    if (what == "torture") torture(read_file(words[2]));
    if (what == "text") std::cout << contract_text(read_file(words[2]));
    if (what == "json") std::cout << JsonReader::read(words[2]).text;
    if (what == "probe") {
      const Bytes pixels = probe_image(std::atoi(words[2]), std::atoi(words[3]));
      raw(pixels.data(), pixels.size());
    }
    if (what == "input") {
      const Bytes input = as_input(read_file(words[3]), read_contract(read_file(words[2])));
      raw(input.data(), input.size());
    }
    if (what == "golden") {  // an engine that answers from a file of floats, probe after probe
      const Contract contract = read_contract(read_file(words[2]));
      const Bytes answers = read_file(words[3]);
      std::size_t at = 0;
      const double least = golden_cosine(
          [&](const Bytes&) {
            std::vector<float> row(static_cast<std::size_t>(contract.length));
            std::memcpy(row.data(), answers.data() + at, row.size() * sizeof(float));
            at += row.size() * sizeof(float);
            return row;
          },
          contract);
      std::cout.precision(9);
      std::cout << least << '\n';
    }
  } catch (const Error& error) {
    std::cerr << error.what() << '\n';
    return 2;
  }
}
