// The stand-in libnvrtc: hands a program to the machine's C++ compiler. What it calls a cubin is a shared
// library for the stand-in driver.
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#ifndef INVAD_EMULATOR_DEVICE_HEADER
#error "define INVAD_EMULATOR_DEVICE_HEADER: the path of device.hpp"
#endif

namespace {

enum Result : int {
    SUCCESS = 0,
    INVALID_INPUT = 3,
    INVALID_PROGRAM = 4,
    INVALID_OPTION = 5,
    COMPILATION = 6,
    INTERNAL = 11
};

struct Program {
    std::string source, name, log, cubin;
};

const char* const architectures[] = {"80", "86", "87", "89", "90", "90a", "100", "120"};

std::vector<std::string> words(const char* text) {
    std::istringstream stream(text ? text : "");
    return {std::istream_iterator<std::string>(stream), {}};
}

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

// Turns NVRTC's options into the compiler's. The architecture must be a real one: a cubin is wanted.
bool translate(int count, const char* const* options, std::vector<std::string>& arguments, std::string& log) {
    bool architecture = false;
    for (int i = 0; i < count; ++i) {
        std::string option = options[i];
        if (starts_with(option, "-D")) {
            arguments.push_back(option);
        } else if (starts_with(option, "--define-macro=")) {
            arguments.push_back("-D" + option.substr(15));
        } else if (starts_with(option, "--gpu-architecture=sm_")) {
            for (const char* known : architectures) architecture |= option.substr(22) == known;
            if (option.substr(22) == "90a") arguments.push_back("-D__CUDA_ARCH_FEAT_SM90_ALL");
        } else if (option != "--std=c++17" && option != "-std=c++17" && option != "-lineinfo" &&
                   option != "--generate-line-info" && option != "-default-device" &&
                   option != "--use_fast_math" && !starts_with(option, "--ptxas-options=") &&
                   !starts_with(option, "--fmad=") && !starts_with(option, "--maxrregcount=") &&
                   !starts_with(option, "--diag-suppress=")) {
            log = "nvrtc: error: unknown option " + option + "\n";
            return false;
        }
    }
    if (!architecture) log = "nvrtc: error: no --gpu-architecture=sm_NN of a known device\n";
    return architecture;
}

// Runs a program with its output in `log`; -1 if it cannot be started. Sanitizers that are loaded into this
// process have no business in the compiler.
int run(const std::vector<std::string>& arguments, const std::string& log) {
    std::vector<char*> argv, environment;
    for (auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    for (char** variable = environ; *variable; ++variable) {
        if (strncmp(*variable, "LD_PRELOAD=", 11) != 0) environment.push_back(*variable);
    }
    environment.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t child;
    int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environment.data());
    posix_spawn_file_actions_destroy(&actions);
    int status;
    if (failed || waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int compile(Program& program, int count, const char* const* options) {
    const char* compiler = getenv("CXX");
    std::vector<std::string> arguments = words(compiler && *compiler ? compiler : "c++");
    // Contraction off, so that results do not depend on the host; a kernel's tiles are seen as halves and as
    // words.
    for (const char* flag : {"-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-x", "c++", "-ffp-contract=off",
                             "-fno-strict-aliasing", "-fno-gnu-unique", "-fvisibility=hidden", "-Wall",
                             "-Wno-unknown-pragmas", "-Wno-unused",
#ifdef __x86_64__
                             "-mavx2", "-mfma", "-mf16c",
#endif
                             "-include", INVAD_EMULATOR_DEVICE_HEADER}) {
        arguments.push_back(flag);
    }
    for (auto& flag : words(getenv("INVAD_EMULATOR_CXXFLAGS"))) arguments.push_back(flag);
    if (!translate(count, options, arguments, program.log)) return INVALID_OPTION;

    const char* temporary = getenv("TMPDIR");
    std::string directory = std::string(temporary ? temporary : "/tmp") + "/invad-nvrtc-XXXXXX";
    if (!mkdtemp(directory.data())) return INTERNAL;
    std::string source = directory + "/" + program.name, library = directory + "/cubin",
                log = directory + "/log";
    std::ofstream(source) << program.source;
    // Messages and debug information name the program, not where it happened to lie.
    arguments.insert(arguments.end(), {"-ffile-prefix-map=" + directory + "/=", source, "-o", library});
    int status = run(arguments, log);
    program.log = read(log);
    for (size_t at; (at = program.log.find(directory + "/")) != std::string::npos;)
        program.log.erase(at, directory.size() + 1);
    if (status == -1) program.log = "nvrtc: error: cannot run the C++ compiler " + arguments[0] + "\n";
    if (status == 0) program.cubin = read(library);
    for (auto& path : {source, library, log}) unlink(path.c_str());
    rmdir(directory.c_str());
    return status == 0 ? SUCCESS : COMPILATION;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int nvrtcVersion(int* major, int* minor) {
    const char* version = getenv("INVAD_EMULATOR_NVRTC");  // as "12.9"
    *major = version ? atoi(version) : 12;
    const char* dot = version ? strchr(version, '.') : nullptr;
    *minor = version ? (dot ? atoi(dot + 1) : 0) : 9;
    return SUCCESS;
}

API const char* nvrtcGetErrorString(int code) {
    switch (code) {
        case SUCCESS: return "NVRTC_SUCCESS";
        case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
        case INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
        case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
        case COMPILATION: return "NVRTC_ERROR_COMPILATION";
        default: return "NVRTC_ERROR_INTERNAL_ERROR";
    }
}

API int nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof architectures / sizeof *architectures;
    return SUCCESS;
}

API int nvrtcGetSupportedArchs(int* list) {
    for (const char* architecture : architectures) *list++ = atoi(architecture);
    return SUCCESS;
}

// Sources come with their includes expanded: headers are not taken.
API int nvrtcCreateProgram(Program** program, const char* source, const char* name, int headers,
                           const char* const*, const char* const*) {
    if (!source || headers) return INVALID_INPUT;
    std::string file = name && *name ? name : "default_program";
    size_t slash = file.rfind('/');
    *program = new Program{source, slash == std::string::npos ? file : file.substr(slash + 1), "", ""};
    return SUCCESS;
}

API int nvrtcDestroyProgram(Program** program) {
    if (!program || !*program) return INVALID_PROGRAM;
    delete *program;
    return SUCCESS;
}

API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    return program ? compile(*program, count, options) : int(INVALID_PROGRAM);
}

API int nvrtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return SUCCESS;
}

API int nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}

API int nvrtcGetCUBINSize(Program* program, size_t* size) {
    *size = program->cubin.size();
    return SUCCESS;
}

API int nvrtcGetCUBIN(Program* program, char* cubin) {
    memcpy(cubin, program->cubin.data(), program->cubin.size());
    return SUCCESS;
}

// There is no PTX.
API int nvrtcGetPTXSize(Program*, size_t* size) {
    *size = 0;
    return INVALID_PROGRAM;
}

API int nvrtcGetPTX(Program*, char*) { return INVALID_PROGRAM; }
