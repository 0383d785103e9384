// Scores of a served model, over REST:
//
//   c++ -std=c++17 -O2 -o predict predict.cpp -lcurl
//   ./predict http://127.0.0.1:8501 tth < events.jsonl
//
// takes events as lines of JSON, {"Jet_pt": [45.1, 32.0], "met": 17}, and writes the server's answer.  A token, if the
// server wants one, is in the environment variable TOKEN.  Needs libcurl.

#include <curl/curl.h>

#include <cstdlib>
#include <iostream>
#include <stdexcept>
#include <string>

namespace {

struct Answer {
  long status = 0;
  std::string body;
};

size_t keep(char* data, size_t size, size_t count, void* answer) {
  static_cast<Answer*>(answer)->body.append(data, size * count);
  return size * count;
}

// One connection to a server, used again by the next request.
class Client {
 public:
  Client(const std::string& server, const char* token) : server_(server), curl_(curl_easy_init()) {
    if (!curl_) throw std::runtime_error("libcurl does not start");
    headers_ = curl_slist_append(nullptr, "Content-Type: application/json");
    headers_ = curl_slist_append(headers_, "Expect:");  // or a large body waits for a word of the server's first
    if (token) headers_ = curl_slist_append(headers_, ("Authorization: Bearer " + std::string(token)).c_str());
    curl_easy_setopt(curl_, CURLOPT_HTTPHEADER, headers_);
    curl_easy_setopt(curl_, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(curl_, CURLOPT_TIMEOUT, 60L);  // seconds
  }
  ~Client() {
    curl_slist_free_all(headers_);
    curl_easy_cleanup(curl_);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  Answer predict(const std::string& model, const std::string& body) {
    Answer answer;
    curl_easy_setopt(curl_, CURLOPT_URL, (server_ + "/v1/models/" + model + ":predict").c_str());
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(curl_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl_, CURLOPT_WRITEDATA, &answer);
    const CURLcode failed = curl_easy_perform(curl_);
    if (failed != CURLE_OK) throw std::runtime_error(server_ + " does not answer: " + curl_easy_strerror(failed));
    curl_easy_getinfo(curl_, CURLINFO_RESPONSE_CODE, &answer.status);
    return answer;
  }

 private:
  std::string server_;
  CURL* curl_;
  curl_slist* headers_ = nullptr;
};

std::string request(std::istream& events) {
  std::string body = "{\"instances\": [";
  bool first = true;
  for (std::string line; std::getline(events, line);) {
    if (line.empty()) continue;
    body += (first ? "" : ",") + line;
    first = false;
  }
  return body + "]}";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: predict SERVER MODEL < EVENTS, for example predict http://127.0.0.1:8501 tth < events.jsonl\n";
    return 2;
  }
  try {
    const Answer answer = Client(argv[1], std::getenv("TOKEN")).predict(argv[2], request(std::cin));
    (answer.status == 200 ? std::cout : std::cerr) << answer.body << '\n';
    return answer.status == 200 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
