// RNTuples of many kinds of fields, for make_files.py.
#include "classes.h"
#include <atomic>
#include <functional>
#include <memory>
#include <type_traits>
#include <ROOT/RNTupleModel.hxx>
#include <ROOT/RNTupleReader.hxx>
#include <ROOT/RNTupleWriter.hxx>
#include <ROOT/RNTupleWriteOptions.hxx>
#include <ROOT/RField.hxx>
#include <array>
#include <bitset>
#include <cmath>
#include <optional>
#include <sstream>
#include <variant>
#include <vector>

template <typename T> T value(int i, int k) {
   if (std::is_same_v<T, bool>) return (i + k) % 2 == 0;
   if (std::is_unsigned_v<T>) return T(i * 20 + k);
   if (std::is_integral_v<T>) return T((i % 2 ? -1 : 1) * (i * 10 + k));
   return T((i - 5) / 3. + k / 7.);
}

struct Filler {
   std::unique_ptr<ROOT::RNTupleModel> model = ROOT::RNTupleModel::Create();
   std::vector<std::function<void(int, int)>> fills;
   template <typename T> void number(const std::string &name) {
      auto one = model->MakeField<T>(name);
      auto list = model->MakeField<std::vector<T>>(name + "_list");
      auto fixed = model->MakeField<std::array<T, 3>>(name + "_fixed");
      fills.push_back([=](int i, int n) {
         *one = value<T>(i, 0);
         list->clear();
         for (int k = 0; k < n; k++) list->push_back(value<T>(i, k));
         for (int k = 0; k < 3; k++) (*fixed)[k] = value<T>(i, k);
      });
   }
   template <typename T> void real(const std::string &name, std::function<void(ROOT::RField<T> &)> change) {
      auto field = std::make_unique<ROOT::RField<T>>(name);
      change(*field);
      model->AddField(std::move(field));
      auto one = model->GetDefaultEntry().GetPtr<T>(name);
      fills.push_back([=](int i, int) { *one = value<T>(i, 0); });
   }
};

int size(int i) { return i == 4 ? 0 : (3 * i + i / 2) % 5; }

void write_numbers(const char *path, int events, int compression) {
   Filler f;
   f.number<bool>("bool"); f.number<char>("char");
   f.number<std::int8_t>("int8"); f.number<std::uint8_t>("uint8"); f.number<std::int16_t>("int16");
   f.number<std::uint16_t>("uint16"); f.number<std::int32_t>("int32"); f.number<std::uint32_t>("uint32");
   f.number<std::int64_t>("int64"); f.number<std::uint64_t>("uint64"); f.number<float>("float"); f.number<double>("double");
   f.real<float>("half", [](auto &field) { field.SetHalfPrecision(); });
   f.real<float>("truncated", [](auto &field) { field.SetTruncated(20); });
   f.real<float>("quantized", [](auto &field) { field.SetQuantized(-5, 5, 14); });
   f.real<double>("double32", [](auto &field) { field.SetDouble32(); });
   f.real<double>("half_double", [](auto &field) { field.SetHalfPrecision(); });
   f.real<double>("truncated_double", [](auto &field) { field.SetTruncated(12); });
   f.real<double>("quantized_double", [](auto &field) { field.SetQuantized(-5, 5, 27); });
   ROOT::RNTupleWriteOptions options;
   options.SetCompression(compression);
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(f.model), "events", path, options);
   for (int i = 0; i < events; i++) {
      for (auto &fill : f.fills) fill(i, size(i));
      writer->Fill();
      if (i % 5 == 4) writer->CommitCluster();
   }
}

struct Pair { float x; int n; };

void write_objects(const char *path, int events) {
   auto model = ROOT::RNTupleModel::Create();
   auto optional = model->MakeField<std::optional<float>>("optional");
   auto pointer = model->MakeField<std::unique_ptr<double>>("pointer");
   auto optionals = model->MakeField<std::vector<std::optional<float>>>("optionals");
   auto rvec = model->MakeField<ROOT::RVecF>("jet_pt");
   auto eta = model->MakeField<std::vector<float>>("jet_eta");
   auto nested = model->MakeField<std::vector<std::vector<float>>>("nested");
   auto arrays = model->MakeField<std::vector<std::array<float, 2>>>("arrays");
   auto matrix = model->MakeField<std::array<std::array<int, 2>, 2>>("matrix");
   auto record = model->MakeField<Particle>("particle");
   auto records = model->MakeField<std::vector<Particle>>("particles");
   auto bits = model->MakeField<std::bitset<4>>("bits");
   auto variant = model->MakeField<std::variant<int, float>>("variant");
   auto text = model->MakeField<std::string>("text");
   auto lorentz = model->MakeField<ROOT::Math::PtEtaPhiMVector>("lorentz");
   auto lorentzes = model->MakeField<std::vector<ROOT::Math::PtEtaPhiMVector>>("lorentzes");
   auto reals = model->MakeField<std::vector<Double32_t>>("doubles");
   auto atomic = model->MakeField<std::atomic<int>>("atomic");
   auto tuple = model->MakeField<std::pair<float, int>>("pair");
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "events", path);
   for (int i = 0; i < events; i++) {
      *optional = i % 3 ? std::optional<float>(i * 1.25f) : std::nullopt;
      *pointer = i % 2 ? std::make_unique<double>(i / 3.) : nullptr;
      optionals->clear(); rvec->clear(); eta->clear(); nested->clear(); arrays->clear(); records->clear(); lorentzes->clear();
      reals->clear();
      for (int k = 0; k < size(i); k++) {
         optionals->push_back((i + k) % 2 ? std::optional<float>(i + k / 8.f) : std::nullopt);
         rvec->push_back(i + k / 8.f); eta->push_back(-i + k / 8.f);
         nested->push_back(std::vector<float>(k, i));
         arrays->push_back({float(i), float(k)});
         Particle p; p.PDG = i - k; p.energy = i + k / 8.f; p.momentum = {float(i), float(k), -1.f}; p.covMatrix = {1.f, float(i), float(k)};
         records->push_back(p);
         lorentzes->push_back({i + 1.f, k / 8.f, -k / 8.f, .5f});
         reals->push_back(i / 3. + k);
      }
      (*matrix)[0] = {i, -i}; (*matrix)[1] = {2 * i, 3 * i};
      record->PDG = i; record->energy = i / 4.f; record->momentum = {float(i), 2.f, 3.f}; record->covMatrix = {1.f, float(i), 2.f};
      *bits = i; *variant = i; *text = "t"; *lorentz = {i + 1.f, .5f, -.5f, float(i)}; *atomic = i;
      *tuple = {i / 2.f, -i};
      writer->Fill();
      if (i % 5 == 4) writer->CommitCluster();
   }
}

void write_late(const char *path, int first, int events) {
   auto model = ROOT::RNTupleModel::Create();
   auto early = model->MakeField<float>("early");
   auto writer = ROOT::RNTupleWriter::Recreate(std::move(model), "events", path);
   std::shared_ptr<float> late; std::shared_ptr<std::vector<int>> list; std::shared_ptr<int> last;
   for (int i = first; i < first + events; i++) {
      if (i == first + 5) {
         auto updater = writer->CreateModelUpdater();
         updater->BeginUpdate();
         late = updater->MakeField<float>("late");
         list = updater->MakeField<std::vector<int>>("late_list");
         updater->CommitUpdate();
      }
      if (i == first + 8) {
         auto updater = writer->CreateModelUpdater();
         updater->BeginUpdate();
         last = updater->MakeField<int>("last");
         updater->CommitUpdate();
      }
      *early = i * 1.25f;
      if (late) { *late = -i; list->assign(i % 3, i); }
      if (last) *last = i * i;
      writer->Fill();
      if (i % 4 == 3) writer->CommitCluster();
   }
}

std::vector<int> show(const char *name, const char *path, int event) {
   auto reader = ROOT::RNTupleReader::Open(name, path);
   std::ostringstream out;
   out.precision(17);
   reader->Show(event, out);
   auto text = out.str();
   return {(const unsigned char *)text.data(), (const unsigned char *)text.data() + text.size()};
}
