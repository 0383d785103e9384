#include "classes.h"
#ifdef __CLING__
#pragma link C++ class Jet+;
#pragma link C++ class Event+;
#pragma link C++ struct ElectronAux+;
#pragma link C++ struct EventInfoAux+;
#pragma link C++ struct Base+;
#pragma link C++ struct Derived+;
#pragma link C++ struct ElementLink+;
#pragma link C++ struct Vector3f+;
#pragma link C++ struct Particle+;
#pragma link C++ struct Reals+;
#pragma link C++ class std::vector<ElementLink>+;
#pragma link C++ class std::vector<std::vector<ElementLink>>+;
#pragma link C++ class std::vector<Particle>+;
#pragma link C++ class std::vector<Double32_t>+;
#pragma link C++ class std::vector<TLorentzVector>+;
#pragma link C++ class std::vector<ROOT::Math::PtEtaPhiMVector>+;
#pragma link C++ class std::vector<std::vector<float>>+;
#pragma link C++ class std::vector<std::array<float, 3>>+;
#endif
