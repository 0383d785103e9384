// Classes shaped like those of Delphes, PHYSLITE and EDM4hep, for make_files.py.
#ifndef ROOT640_CLASSES_H
#define ROOT640_CLASSES_H
#include <Math/Vector3D.h>
#include <Math/Vector4D.h>
#include <TLorentzVector.h>
#include <TObject.h>
#include <TRefArray.h>
#include <array>
#include <cstdint>
#include <vector>

class Jet : public TObject {  // Delphes: elements of a TClonesArray
public:
   float PT = 0, Eta = 0;
   unsigned int BTag = 0;
   float Tau[3] = {0, 0, 0};
   TLorentzVector Area;
   TRefArray Constituents;
   ClassDef(Jet, 1)
};

class Event : public TObject {  // Delphes: one element an event
public:
   Long64_t Number = 0;
   float Weight = 0;
   ClassDef(Event, 1)
};

struct ElectronAux {  // PHYSLITE: a container's static variables
   std::vector<float> pt, eta;
   std::vector<int> charge;
};

struct EventInfoAux {
   unsigned int runNumber = 0;
   unsigned long long eventNumber = 0;
   float averageInteractionsPerCrossing = 0;
};

struct Base {
   float b = 0;
};

struct Derived : Base {
   int d = 0;
};

struct ElementLink {
   unsigned int m_persKey = 0, m_persIndex = 0;
};

struct Vector3f {
   float x = 0, y = 0, z = 0;
};

struct Particle {  // EDM4hep
   int PDG = 0;
   float energy = 0;
   Vector3f momentum;
   std::array<float, 3> covMatrix{};
   unsigned int clusters_begin = 0, clusters_end = 0;
};

struct Reals {  // numbers that ROOT stores in fewer bytes
   Double32_t plain = 0;
   Double32_t ranged = 0;   //[0, 10, 12]
   Float16_t half = 0;
   Float16_t half_ranged = 0;   //[0, 10, 10]
   Double32_t fixed[2] = {0, 0};   //[0, 10]
   Float16_t half_fixed[2] = {0, 0};
   int n = 0;
   Double32_t *list = nullptr;   //[n]
};

inline void set_reals(Reals &r, double *values) {
   r.plain = r.ranged = values[0];
   r.half = r.half_ranged = values[0];
   for (int k = 0; k < 2; k++) {
      r.fixed[k] = values[k];
      r.half_fixed[k] = values[k];
   }
   r.list = values;
}
#endif
