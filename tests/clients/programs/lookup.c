/* lookup A|AAAA|both NAME: prints the result of getaddrinfo, one address per line, or one line "! ERROR". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

static const char *word(int error)
{
    switch (error) {
    case EAI_NONAME: return "EAI_NONAME";
    case EAI_NODATA: return "EAI_NODATA";
    case EAI_AGAIN: return "EAI_AGAIN";
    default: return gai_strerror(error);
    }
}

int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    char text[INET6_ADDRSTRLEN];
    int error;

    if (argc != 3)
        return 2;
    hints.ai_family = !strcmp(argv[1], "A") ? AF_INET : !strcmp(argv[1], "AAAA") ? AF_INET6 : AF_UNSPEC;
    error = getaddrinfo(argv[2], NULL, &hints, &found);
    if (error) {
        printf("! %s\n", word(error));
        return 0;
    }
    for (each = found; each; each = each->ai_next) {
        const void *address = each->ai_family == AF_INET
                                  ? (const void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
                                  : (const void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
        puts(inet_ntop(each->ai_family, address, text, sizeof text));
    }
    freeaddrinfo(found);
    return 0;
}
